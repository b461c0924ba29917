// The engines that were compiled in.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "genedge/bundle.hpp"
#include "genedge/engine.hpp"

namespace genedge {

/// Repeats every pixel as often as the image is larger than the frame: to measure and test what is around an engine.
std::unique_ptr<Engine> open_null(const Manifest& manifest, const Choice& choice);

/// Throws Error where it was not compiled in.
std::unique_ptr<Engine> open_openvino(const std::string& model, const Manifest& manifest, const Choice& choice,
                                      const EngineOptions& options);
bool has_openvino();
/// Whether this processor computes in bfloat16 natively.
bool has_bf16();
/// The version of OpenVINO, "" without it.
std::string openvino_version();

/// `folder`: of the bundle, where engines are kept unless the options say otherwise.
std::unique_ptr<Engine> open_tensorrt(const std::string& model, const Manifest& manifest, const Choice& choice,
                                      const EngineOptions& options, const std::filesystem::path& folder);
/// Whether the TensorRT engine was compiled in.
bool has_tensorrt();
/// Why TensorRT does not work here, nothing where it does. Only where it was compiled in.
std::optional<std::string> trouble_with_tensorrt();
/// Major and minor of TensorRT, and its whole version in words.
std::pair<int, int> tensorrt_version();
std::string tensorrt_version_text();

/// The artifact that serves a precision on a backend, "" where none can.
std::string variant_for(const std::string& backend, const std::string& precision);

/// The last line of what an engine says, which is the one that tells.
std::string reason_of(const std::exception& error);

}  // namespace genedge
