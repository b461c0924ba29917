// Stand-ins for the few declarations of TensorRT's API that src/engine_tensorrt.cpp uses, so that it is compiled where
// there are no headers of NVIDIA's. What one version does not have is missing here too. They are written from the API
// reference; nothing can be linked against them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>

#include "NvInferVersion.h"

namespace nvinfer1 {

using AsciiChar = char;

class Dims {
 public:
  std::int32_t nbDims;
#if NV_TENSORRT_MAJOR < 10
  std::int32_t d[8];
#else
  std::int64_t d[8];
#endif
};

enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class DeviceType : std::int32_t { kGPU, kDLA };
enum class OptProfileSelector : std::int32_t { kMIN, kOPT, kMAX };
enum class MemoryPoolType : std::int32_t { kWORKSPACE };
enum class NetworkDefinitionCreationFlag : std::int32_t {
#if NV_TENSORRT_MAJOR < 10
  kEXPLICIT_BATCH = 0,
#elif NV_TENSORRT_MAJOR < 11
  kEXPLICIT_BATCH = 0,
  kSTRONGLY_TYPED = 1,
#else
  kSTRONGLY_TYPED = 0,
#endif
};
enum class BuilderFlag : std::int32_t {
#if NV_TENSORRT_MAJOR < 11
  kFP16,
  kINT8,
#endif
  kGPU_FALLBACK,
  kTF32,
#if NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6
  kVERSION_COMPATIBLE,
#endif
};
#if NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6
enum class HardwareCompatibilityLevel : std::int32_t { kNONE, kAMPERE_PLUS };
#endif

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, AsciiChar const* text) noexcept = 0;
  virtual ~ILogger() = default;
};

class IHostMemory {
 public:
  virtual ~IHostMemory() = default;
  void* data() const noexcept;
  std::size_t size() const noexcept;
};

class ITensor {
 public:
  char const* getName() const noexcept;
  void setDimensions(Dims const& dimensions) noexcept;
};

class INetworkDefinition {
 public:
  virtual ~INetworkDefinition() = default;
  std::int32_t getNbInputs() const noexcept;
  ITensor* getInput(std::int32_t index) const noexcept;
};

class IOptimizationProfile {
 public:
  bool setDimensions(char const* name, OptProfileSelector select, Dims const& dims) noexcept;
};

class ITimingCache {
 public:
  virtual ~ITimingCache() = default;
  IHostMemory* serialize() const noexcept;
};

class IBuilderConfig {
 public:
  virtual ~IBuilderConfig() = default;
  std::int32_t addOptimizationProfile(IOptimizationProfile const* profile) noexcept;
  void setFlag(BuilderFlag flag) noexcept;
  void clearFlag(BuilderFlag flag) noexcept;
  void setMemoryPoolLimit(MemoryPoolType pool, std::size_t size) noexcept;
  void setDefaultDeviceType(DeviceType type) noexcept;
  void setDLACore(std::int32_t core) noexcept;
  ITimingCache* createTimingCache(void const* blob, std::size_t size) const noexcept;
  bool setTimingCache(ITimingCache const& cache, bool ignore_mismatch) noexcept;
#if NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6
  void setBuilderOptimizationLevel(std::int32_t level) noexcept;
  void setHardwareCompatibilityLevel(HardwareCompatibilityLevel level) noexcept;
#endif
};

class IBuilder {
 public:
  virtual ~IBuilder() = default;
  INetworkDefinition* createNetworkV2(std::uint32_t flags) noexcept;
  IBuilderConfig* createBuilderConfig() noexcept;
  IOptimizationProfile* createOptimizationProfile() noexcept;
  std::int32_t getNbDLACores() const noexcept;
  IHostMemory* buildSerializedNetwork(INetworkDefinition& network, IBuilderConfig& config) noexcept;
};

class IExecutionContext {
 public:
  virtual ~IExecutionContext() = default;
  bool setInputShape(char const* name, Dims const& dims) noexcept;
  Dims getTensorShape(char const* name) const noexcept;
  bool setTensorAddress(char const* name, void* data) noexcept;
  bool enqueueV3(cudaStream_t stream) noexcept;
};

class ICudaEngine {
 public:
  virtual ~ICudaEngine() = default;
  std::int32_t getNbIOTensors() const noexcept;
  char const* getIOTensorName(std::int32_t index) const noexcept;
  DataType getTensorDataType(char const* name) const noexcept;
  IExecutionContext* createExecutionContext() noexcept;
};

class IRuntime {
 public:
  virtual ~IRuntime() = default;
  void setDLACore(std::int32_t core) noexcept;
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept;
#if NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6
  void setEngineHostCodeAllowed(bool allowed) noexcept;
#endif
};

IBuilder* createInferBuilder(ILogger& logger) noexcept;
IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1
