#include "parts.hpp"

#include <dlfcn.h>

#include <filesystem>

#include "genedge/error.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

/// The folder of this library, wherever it was installed.
fs::path own_folder() {
  Dl_info found{};
  if (dladdr(reinterpret_cast<const void*>(&picture_parts), &found) == 0 || found.dli_fname == nullptr) return {};
  return fs::path(found.dli_fname).parent_path();
}

template <class Parts>
const Parts& parts_of(const char* name) {
  const fs::path path = own_folder() / GENEDGE_PARTS_FOLDER / (std::string("lib") + name + ".so");
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* entry = library == nullptr ? nullptr : dlsym(library, name);
  if (entry == nullptr) {
    const char* reason = dlerror();
    throw Error("a part of genedge cannot be loaded: " + (reason == nullptr ? path.string() : std::string(reason)));
  }
  return *reinterpret_cast<const Parts* (*)()>(entry)();
}

}  // namespace

const PictureParts& picture_parts() {
  static const PictureParts& parts = parts_of<PictureParts>("genedge_pictures");
  return parts;
}

const DeviceParts& device_parts() {
  static const DeviceParts& parts = parts_of<DeviceParts>("genedge_devices");
  return parts;
}

}  // namespace genedge
