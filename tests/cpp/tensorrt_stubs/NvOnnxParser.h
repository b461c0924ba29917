#pragma once

#include "NvInfer.h"

namespace nvonnxparser {

class IParserError {
 public:
  virtual char const* desc() const noexcept = 0;

 protected:
  virtual ~IParserError() = default;
};

class IParser {
 public:
  virtual ~IParser() = default;
  virtual bool parse(void const* model, std::size_t size, char const* path = nullptr) noexcept = 0;
  virtual std::int32_t getNbErrors() const noexcept = 0;
  virtual IParserError const* getError(std::int32_t index) const noexcept = 0;
};

IParser* createParser(nvinfer1::INetworkDefinition& network, nvinfer1::ILogger& logger);

}  // namespace nvonnxparser
