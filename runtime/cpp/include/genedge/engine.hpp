// The one interface behind every inference engine: a graph, and arrays by the names of its ports.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace genedge {

using Shape = std::vector<std::int64_t>;

/// A C-contiguous array that somebody else owns; `dtype` as in the manifest.
struct Array {
  std::string dtype;
  Shape shape;
  void* data = nullptr;

  std::size_t bytes() const;
};

using Arrays = std::map<std::string, Array>;
using Shapes = std::map<std::string, Shape>;

/// Bytes of one element of a dtype of the manifest.
std::size_t bytes_of(const std::string& dtype);

/// What a graph runs on, for reports.
struct EngineInfo {
  std::string backend;    // openvino | tensorrt | null
  std::string precision;  // fp32 | bf16 | fp16 | int8
  std::string variant;    // the artifact in the bundle
  std::string device;     // e.g. the processor's name, once it is known
  int threads = 0;
};

/// A graph on an engine. One thread calls `specialise` and `start`; `wait` may come from another one.
///
/// Every call throws Error with the engine's own words.
class Engine {
 public:
  virtual ~Engine() = default;

  const EngineInfo& info() const { return info_; }
  virtual std::vector<std::string> input_names() const = 0;
  virtual std::vector<std::string> output_names() const = 0;
  /// Get ready for inputs of these shapes, with `slots` requests that may be under way at once.
  virtual void specialise(const Shapes& inputs, int slots) = 0;
  /// The shape of an output for the shapes that the engine was specialised to.
  virtual Shape output_shape(const std::string& name) const = 0;
  /// Start a request in a slot (from 0) that is free. The engine reads `inputs` and writes `outputs` until `wait`.
  virtual void start(int slot, const Arrays& inputs, const Arrays& outputs) = 0;
  /// Wait for what was started in the slot.
  virtual void wait(int slot) = 0;

  /// One request, and its result.
  void run(const Arrays& inputs, const Arrays& outputs) {
    start(0, inputs, outputs);
    wait(0);
  }

 protected:
  EngineInfo info_;
};

/// An engine and a precision for a bundle on this device, and why.
struct Choice {
  std::string backend;
  std::string precision;
  std::string variant;
  std::string reason;
};

/// What the user may say about a TensorRT engine; see `genedge-run run --help`.
struct TensorRtOptions {
  std::string engine_cache;  // folder; empty: engines/ in the bundle
  int workspace_mib = -1;    // -1: left to TensorRT
  int optimization_level = -1;
  std::string timing_cache;
  int dla_core = -1;
  bool version_compatible = false;
  bool hardware_compatible = false;
  std::function<void(const std::string&)> progress = [](const std::string&) {};
};

/// How an engine is opened. `threads`: 0 lets the engine choose. `streams`: requests that OpenVINO computes at once.
struct EngineOptions {
  int threads = 0;
  int streams = 1;
  TensorRtOptions tensorrt;
};

}  // namespace genedge
