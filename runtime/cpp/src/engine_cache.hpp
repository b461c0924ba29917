// TensorRT engines that were built before, kept by what they belong to: the same files and the same key as
// runtime/engines/cache.py, so that both runtimes use what one of them has built.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "genedge/engine.hpp"

namespace genedge {

/// What a plan belongs to; the fields are those of Python's Identity. A negative number is none.
struct EngineIdentity {
  std::string tensorrt;  // a major version for version-compatible engines
  std::string gpu;
  std::string sm;
  int driver = 0;
  std::string model;  // sha256 of the ONNX file
  std::string variant;
  std::string precision;
  std::map<std::string, std::array<Shape, 3>> inputs;  // smallest, usual and largest shape
  int workspace_mib = -1;
  int optimization_level = -1;
  int dla_core = -1;
  bool version_compatible = false;
  bool hardware_compatible = false;

  /// As Python's json.dumps(..., sort_keys=True) writes it.
  std::string json() const;
  /// The name of its files: 64 hexadecimal digits.
  std::string key() const;
};

/// The plan of an engine: the one that is kept, else the one that `build` makes, which is kept.
///
/// A plan that lies in a bundle is used only where this user has built it, since a plan can hold code. Whoever builds
/// holds the folder's lock. `refused`: TensorRT did not take the plan that was kept, so it is built anew.
std::string engine_for(const EngineIdentity& identity, const std::filesystem::path& folder, std::size_t model_bytes,
                       const std::function<std::string(const std::filesystem::path& timing_cache)>& build,
                       const std::function<void(const std::string&)>& progress, bool refused = false);

/// Write a file that is whole or not there, also after a power loss; false where it cannot be written.
bool write_whole(const std::filesystem::path& path, const std::string& data);
std::optional<std::string> read_whole(const std::filesystem::path& path);

}  // namespace genedge
