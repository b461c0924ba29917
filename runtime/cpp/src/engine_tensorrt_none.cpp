// In the place of engine_tensorrt.cpp where TENSORRT_ROOT was not given.

#include "engines.hpp"
#include "genedge/error.hpp"

namespace genedge {

std::unique_ptr<Engine> open_tensorrt(const std::string&, const Manifest&, const Choice&, const EngineOptions&,
                                      const std::filesystem::path&) {
  throw Error("this program was built without TensorRT: configure it with -DTENSORRT_ROOT=/usr and build it again");
}

bool has_tensorrt() { return false; }

std::optional<std::string> trouble_with_tensorrt() { return "this program was built without it"; }

std::pair<int, int> tensorrt_version() { return {0, 0}; }

std::string tensorrt_version_text() { return ""; }

}  // namespace genedge
