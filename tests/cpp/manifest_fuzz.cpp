// Any bytes are a manifest or a ManifestError, and any manifest that is read keeps its promises.
#include <cstdint>
#include <cstdlib>

#include "genedge/error.hpp"
#include "genedge/manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto manifest = genedge::parse_manifest({reinterpret_cast<const char*>(data), size});
    if (manifest.frame().shape.size() != 4 || manifest.artifacts.empty()) std::abort();
    if (manifest.task != "face-detection" && manifest.images().empty()) std::abort();
  } catch (const genedge::ManifestError&) {
  }
  return 0;
}
