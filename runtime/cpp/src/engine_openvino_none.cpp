// In the place of engine_openvino.cpp where OpenVINO was not found.

#include "engines.hpp"
#include "genedge/error.hpp"

namespace genedge {

std::unique_ptr<Engine> open_openvino(const std::string&, const Manifest&, const Choice&, const EngineOptions&) {
  throw Error("this program was built without OpenVINO: pip install openvino, then build it again");
}

bool has_openvino() { return false; }

bool has_bf16() { return false; }

std::string openvino_version() { return ""; }

}  // namespace genedge
