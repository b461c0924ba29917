#include "genedge/engine.hpp"

#include <stdexcept>

#include "engines.hpp"
#include "genedge/error.hpp"
#include "text.hpp"

namespace genedge {

std::size_t bytes_of(const std::string& dtype) {
  if (dtype == "uint8") return 1;
  if (dtype == "float16") return 2;
  if (dtype == "float32") return 4;
  if (dtype == "int64") return 8;
  throw std::invalid_argument("unknown dtype " + dtype);
}

std::size_t Array::bytes() const {
  std::size_t count = bytes_of(dtype);
  for (const auto side : shape) count *= static_cast<std::size_t>(side);
  return count;
}

std::string reason_of(const std::exception& error) {
  const auto lines = split(error.what(), '\n');
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
    if (!trimmed(*line).empty()) return std::string(trimmed(*line));
  }
  return "it does not say why";
}

}  // namespace genedge
