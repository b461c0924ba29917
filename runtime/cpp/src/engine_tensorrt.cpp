// TensorRT 8.5 to 11: the engine for NVIDIA GPUs. One source; what differs between the versions is behind five #ifs.
//
// Each slot has a context, a stream and buffers of its own. A frame goes through pinned memory, so that one slot's copies
// run while another slot's frame is computed.

#include <NvInfer.h>
#include <NvInferPlugin.h>
#include <NvOnnxParser.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "engine_cache.hpp"
#include "engines.hpp"
#include "genedge/error.hpp"
#include "text.hpp"

#define GENEDGE_TENSORRT (NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR)

namespace genedge {
namespace {

/// Keeps TensorRT's last complaint, for the message.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, nvinfer1::AsciiChar const* text) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> held(lock_);
    last_ = text;
  }
  std::string last() {
    const std::lock_guard<std::mutex> held(lock_);
    return last_.empty() ? "it does not say why" : last_;
  }

 private:
  std::mutex lock_;
  std::string last_;
};

Log& the_log() {
  static Log log;
  return log;
}

void check_cuda(cudaError_t code, const std::string& what) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // forget it: the next call is not to blame
  if (code == cudaErrorMemoryAllocation) {
    throw Error(what + ": the GPU's memory is full: run with smaller tiles (--tile 256), or end other programs on it");
  }
  throw Error(what + ": " + cudaGetErrorString(code));
}

struct FreeDevice {
  void operator()(void* memory) const { cudaFree(memory); }
};
struct FreePinned {
  void operator()(void* memory) const { cudaFreeHost(memory); }
};

nvinfer1::Dims dims_of(const Shape& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<int>(shape.size());
  // int32 in 8, int64 from 10 on
  for (std::size_t i = 0; i < shape.size(); ++i) dims.d[i] = static_cast<std::decay_t<decltype(dims.d[0])>>(shape[i]);
  return dims;
}

/// The GPU that engines are built for and run on.
struct Device {
  std::string gpu, sm;
  int driver = 0;
};

Device device() {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, 0), "asking what GPU this is failed");
  int served = 0;
  check_cuda(cudaDriverGetVersion(&served), "asking for the driver's version failed");
  return {properties.name, std::to_string(properties.major) + std::to_string(properties.minor), served / 1000};
}

void check_options(const TensorRtOptions& options, const std::string& precision) {
#if GENEDGE_TENSORRT < 806
  for (const auto& [option, used] : {std::pair("--builder-optimization-level", options.optimization_level >= 0),
                                     std::pair("--version-compatible", options.version_compatible),
                                     std::pair("--hardware-compatible", options.hardware_compatible)}) {
    if (used) {
      throw UsageError("TensorRT " + tensorrt_version_text() + " has no " + option +
                       ", which came with 8.6: leave it out");
    }
  }
#endif
  if (options.optimization_level > 5) {
    throw UsageError("--builder-optimization-level " + std::to_string(options.optimization_level) +
                     ": choose 0 (built fast) to 5 (runs fast)");
  }
  if (options.workspace_mib == 0) throw UsageError("--workspace 0: at least 1 MiB");
  if (options.dla_core >= 0 && precision == "fp32") {
    throw UsageError("a DLA computes in fp16 or int8: choose --precision fp16, or leave --dla-core out");
  }
}

/// Build a plan on this GPU.
class Builder {
 public:
  Builder(const std::string& model, const Shapes& inputs, const std::string& precision, const TensorRtOptions& options)
      : model_(model), inputs_(inputs), precision_(precision), options_(options) {}

  std::string build(const std::filesystem::path& timings) {
    initLibNvInferPlugins(&the_log(), "");  // on 8.5 an instance norm is a plugin
    builder_.reset(nvinfer1::createInferBuilder(the_log()));
    if (!builder_) throw Error("TensorRT does not start on this driver: " + the_log().last());
    parse();
    config_.reset(builder_->createBuilderConfig());
    configure();
    const auto known = read_whole(timings);
    const std::string before = known.value_or("");
    timing_cache_.reset(config_->createTimingCache(before.data(), before.size()));
    if (timing_cache_) config_->setTimingCache(*timing_cache_, false);
    const std::unique_ptr<nvinfer1::IHostMemory> plan(builder_->buildSerializedNetwork(*network_, *config_));
    if (!plan) throw Error("TensorRT cannot build the engine: " + the_log().last());
    if (timing_cache_) {
      const std::unique_ptr<nvinfer1::IHostMemory> measured(timing_cache_->serialize());
      if (measured) write_whole(timings, {static_cast<const char*>(measured->data()), measured->size()});
    }
    return {static_cast<const char*>(plan->data()), plan->size()};
  }

 private:
  void parse() {
    // by name: the same bit means something else in 8 and 11
#if NV_TENSORRT_MAJOR < 10
    const auto flags = 1U << static_cast<std::uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kEXPLICIT_BATCH);
#elif GENEDGE_TENSORRT >= 1012 && NV_TENSORRT_MAJOR < 11
    const auto flags = 1U << static_cast<std::uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#else
    const auto flags = 0U;  // 11 knows strongly typed networks only
#endif
    network_.reset(builder_->createNetworkV2(flags));
    parser_.reset(nvonnxparser::createParser(*network_, the_log()));
    if (!parser_->parse(model_.data(), model_.size())) {
      const std::string why = parser_->getNbErrors() > 0 ? parser_->getError(0)->desc() : the_log().last();
      throw Error("TensorRT " + tensorrt_version_text() + " cannot read the model: " + why);
    }
    for (int i = 0; i < network_->getNbInputs(); ++i) {
      nvinfer1::ITensor* input = network_->getInput(i);
      const auto shape = inputs_.find(input->getName());
      if (shape == inputs_.end()) {
        throw Error(std::string("the model has the input ") + input->getName() +
                    ", whose shape nothing tells: build the bundle again");
      }
      input->setDimensions(dims_of(shape->second));
    }
  }

  void configure() {
    auto* profile = builder_->createOptimizationProfile();
    for (const auto& [name, shape] : inputs_) {
      for (const auto which : {nvinfer1::OptProfileSelector::kMIN, nvinfer1::OptProfileSelector::kOPT,
                               nvinfer1::OptProfileSelector::kMAX}) {
        profile->setDimensions(name.c_str(), which, dims_of(shape));
      }
    }
    config_->addOptimizationProfile(profile);
    // it keeps 10 bits of a product's factors: too few for fp32's parity
    if (precision_ == "fp32") config_->clearFlag(nvinfer1::BuilderFlag::kTF32);
#if GENEDGE_TENSORRT < 1012
    if (precision_ != "fp32") config_->setFlag(nvinfer1::BuilderFlag::kFP16);
    if (precision_ == "int8") config_->setFlag(nvinfer1::BuilderFlag::kINT8);
#endif
    if (options_.workspace_mib > 0) {
      config_->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, std::size_t(options_.workspace_mib) << 20);
    }
    if (options_.dla_core >= 0) {
      if (options_.dla_core >= builder_->getNbDLACores()) {
        throw UsageError("--dla-core " + std::to_string(options_.dla_core) + ": this device has " +
                         std::to_string(builder_->getNbDLACores()) + ", counted from 0");
      }
      config_->setDefaultDeviceType(nvinfer1::DeviceType::kDLA);
      config_->setDLACore(options_.dla_core);
      config_->setFlag(nvinfer1::BuilderFlag::kGPU_FALLBACK);
    }
#if GENEDGE_TENSORRT >= 806
    if (options_.optimization_level >= 0) config_->setBuilderOptimizationLevel(options_.optimization_level);
    if (options_.version_compatible) config_->setFlag(nvinfer1::BuilderFlag::kVERSION_COMPATIBLE);
    if (options_.hardware_compatible) {
      config_->setHardwareCompatibilityLevel(nvinfer1::HardwareCompatibilityLevel::kAMPERE_PLUS);
    }
#endif
  }

  const std::string& model_;
  const Shapes& inputs_;
  const std::string& precision_;
  const TensorRtOptions& options_;
  std::unique_ptr<nvinfer1::IBuilder> builder_;
  std::unique_ptr<nvinfer1::INetworkDefinition> network_;
  std::unique_ptr<nvonnxparser::IParser> parser_;  // owns the weights
  std::unique_ptr<nvinfer1::IBuilderConfig> config_;
  std::unique_ptr<nvinfer1::ITimingCache> timing_cache_;
};

/// Memory of one input or output: on the GPU, and pinned on the host.
struct Buffer {
  Buffer(std::size_t size, const std::string& name) : bytes(size) {
    void* memory = nullptr;
    check_cuda(cudaMalloc(&memory, bytes), "memory for " + name);
    device.reset(memory);
    check_cuda(cudaMallocHost(&memory, bytes), "pinned memory for " + name);
    pinned.reset(memory);
  }

  std::size_t bytes;
  std::unique_ptr<void, FreeDevice> device;
  std::unique_ptr<void, FreePinned> pinned;
};

struct Slot {
  Slot() { check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream"); }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() {
    cudaStreamSynchronize(stream);
    context.reset();
    cudaStreamDestroy(stream);
  }

  cudaStream_t stream = nullptr;
  std::unique_ptr<nvinfer1::IExecutionContext> context;
  std::map<std::string, Buffer> buffers;
  Arrays outputs;  // of the request that is under way
};

class TensorRtEngine : public Engine {
 public:
  TensorRtEngine(const std::string& model, const Manifest& manifest, const Choice& choice,
                 const EngineOptions& options, const std::filesystem::path& bundle)
      : model_(model), digest_(sha256_hex(model)), manifest_(manifest), options_(options.tensorrt), device_(device()),
        folder_(options_.engine_cache.empty() ? bundle / "engines" : std::filesystem::path(options_.engine_cache)) {
    info_ = {"tensorrt", choice.precision, choice.variant, device_.gpu, 0};
    check_options(options_, choice.precision);
  }

  // the ports of the manifest: the engine is not built before the frames' shape is known
  std::vector<std::string> input_names() const override { return names(manifest_.inputs); }
  std::vector<std::string> output_names() const override { return names(manifest_.outputs); }

  void specialise(const Shapes& inputs, int slots) override {
    slots_.clear();
    engine_.reset();
    const EngineIdentity identity = identity_for(inputs);
    const auto build = [&](const std::filesystem::path& timings) {
      const std::filesystem::path own = options_.timing_cache;
      return Builder(model_, inputs, info_.precision, options_).build(own.empty() ? timings : own);
    };
    for (const bool refused : {false, true}) {
      const std::string plan = engine_for(identity, folder_, model_.size(), build, options_.progress, refused);
      if (read(plan)) break;
      if (refused) throw Error("TensorRT does not take the engine that it has just built: " + the_log().last());
      options_.progress("TensorRT refused the kept engine (" + the_log().last() + "): rebuilding");
    }
    for (int i = 0; i < slots; ++i) slots_.push_back(slot_for(inputs));
  }

  Shape output_shape(const std::string& name) const override {
    const nvinfer1::Dims dims = slots_.at(0)->context->getTensorShape(name.c_str());
    return {dims.d, dims.d + std::max(0, static_cast<int>(dims.nbDims))};
  }

  void start(int index, const Arrays& inputs, const Arrays& outputs) override {
    Slot& slot = *slots_.at(index);
    for (const auto& [name, array] : inputs) {
      const Buffer& buffer = slot.buffers.at(name);
      std::memcpy(buffer.pinned.get(), array.data, array.bytes());
      check_cuda(cudaMemcpyAsync(buffer.device.get(), buffer.pinned.get(), array.bytes(), cudaMemcpyHostToDevice,
                                 slot.stream),
                 "uploading " + name);
    }
    if (!slot.context->enqueueV3(slot.stream)) throw Error("TensorRT refused the frame: " + the_log().last());
    for (const auto& [name, array] : outputs) {
      const Buffer& buffer = slot.buffers.at(name);
      check_cuda(cudaMemcpyAsync(buffer.pinned.get(), buffer.device.get(), array.bytes(), cudaMemcpyDeviceToHost,
                                 slot.stream),
                 "downloading " + name);
    }
    slot.outputs = outputs;
  }

  void wait(int index) override {
    Slot& slot = *slots_.at(index);
    check_cuda(cudaStreamSynchronize(slot.stream), "computing a frame");
    for (const auto& [name, array] : slot.outputs) {
      std::memcpy(array.data, slot.buffers.at(name).pinned.get(), array.bytes());
    }
    slot.outputs.clear();
  }

 private:
  static std::vector<std::string> names(const std::vector<Port>& ports) {
    std::vector<std::string> result;
    for (const Port& port : ports) result.push_back(port.name);
    return result;
  }

  EngineIdentity identity_for(const Shapes& inputs) const {
    EngineIdentity identity;
    const bool any = options_.hardware_compatible;
    identity.tensorrt = options_.version_compatible ? std::to_string(NV_TENSORRT_MAJOR) : tensorrt_version_text();
    identity.gpu = any ? "Ampere or later" : device_.gpu;
    identity.sm = any ? "80 or later" : device_.sm;
    identity.driver = device_.driver;
    identity.model = digest_;
    identity.variant = info_.variant;
    identity.precision = info_.precision;
    for (const auto& [name, shape] : inputs) identity.inputs[name] = {shape, shape, shape};
    identity.workspace_mib = options_.workspace_mib;
    identity.optimization_level = options_.optimization_level;
    identity.dla_core = options_.dla_core;
    identity.version_compatible = options_.version_compatible;
    identity.hardware_compatible = options_.hardware_compatible;
    return identity;
  }

  /// False where TensorRT does not take the plan.
  bool read(const std::string& plan) {
    initLibNvInferPlugins(&the_log(), "");
    runtime_.reset(nvinfer1::createInferRuntime(the_log()));
    if (!runtime_) throw Error("TensorRT does not start: " + the_log().last());
#if GENEDGE_TENSORRT >= 806
    if (options_.version_compatible) runtime_->setEngineHostCodeAllowed(true);  // such a plan was built here
#endif
    if (options_.dla_core >= 0) runtime_->setDLACore(options_.dla_core);
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    return engine_ != nullptr;
  }

  std::unique_ptr<Slot> slot_for(const Shapes& inputs) const {
    auto slot = std::make_unique<Slot>();
    slot->context.reset(engine_->createExecutionContext());
    if (!slot->context) throw Error("TensorRT gives no execution context: " + the_log().last());
    for (const auto& [name, shape] : inputs) {
      if (!slot->context->setInputShape(name.c_str(), dims_of(shape))) {
        throw Error("TensorRT does not take " + name + " of this shape: " + the_log().last());
      }
    }
    for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
      const std::string name = engine_->getIOTensorName(i);
      const nvinfer1::Dims dims = slot->context->getTensorShape(name.c_str());
      Array array{dtype_of(engine_->getTensorDataType(name.c_str())), {dims.d, dims.d + dims.nbDims}, nullptr};
      const auto buffer = slot->buffers.emplace(std::piecewise_construct, std::forward_as_tuple(name),
                                                std::forward_as_tuple(array.bytes(), name));
      slot->context->setTensorAddress(name.c_str(), buffer.first->second.device.get());
    }
    return slot;
  }

  static std::string dtype_of(nvinfer1::DataType type) {
    switch (type) {
      case nvinfer1::DataType::kUINT8: return "uint8";
      case nvinfer1::DataType::kHALF: return "float16";
      case nvinfer1::DataType::kFLOAT: return "float32";
      default: throw Error("the engine has an input or output of a type that no bundle has: build the bundle again");
    }
  }

  std::string model_, digest_;
  Manifest manifest_;
  TensorRtOptions options_;
  Device device_;
  std::filesystem::path folder_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace

std::unique_ptr<Engine> open_tensorrt(const std::string& model, const Manifest& manifest, const Choice& choice,
                                      const EngineOptions& options, const std::filesystem::path& folder) {
  return std::make_unique<TensorRtEngine>(model, manifest, choice, options, folder);
}

bool has_tensorrt() { return true; }

std::optional<std::string> trouble_with_tensorrt() {
  static const std::optional<std::string> trouble = []() -> std::optional<std::string> {
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess) return std::string("no GPU is found (") + cudaGetErrorString(code) + ")";
    if (count == 0) return "no GPU is found";
    return std::nullopt;
  }();
  return trouble;
}

std::pair<int, int> tensorrt_version() { return {NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR}; }

std::string tensorrt_version_text() {
  return std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR) + "." +
         std::to_string(NV_TENSORRT_PATCH) + "." + std::to_string(NV_TENSORRT_BUILD);
}

}  // namespace genedge
