// Looks into an ONNX file without a graph library: does it point at other files?
//
// The file is protobuf; only lengths and the few fields on the way to a TensorProto are read (field numbers:
// onnx.proto3 of the ONNX project). See runtime/onnx_scan.py.

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>

#include "genedge/bundle.hpp"
#include "genedge/error.hpp"

namespace genedge {
namespace {

enum class Kind { model, training, graph, function, node, attribute, sparse, tensor };

constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;
constexpr int kExternalData = 13, kDataLocation = 14;
constexpr int kDeepest = 32;

/// The message inside field `number`, where it can reach a tensor.
std::optional<Kind> nested(Kind kind, std::uint64_t number) {
  static const std::map<Kind, std::map<std::uint64_t, Kind>> kFields = {
      {Kind::model, {{7, Kind::graph}, {20, Kind::training}, {25, Kind::function}}},
      {Kind::training, {{1, Kind::graph}, {2, Kind::graph}}},
      {Kind::graph, {{1, Kind::node}, {5, Kind::tensor}, {15, Kind::sparse}}},
      {Kind::function, {{7, Kind::node}, {11, Kind::attribute}}},
      {Kind::node, {{5, Kind::attribute}}},
      {Kind::attribute,
       {{5, Kind::tensor},
        {6, Kind::graph},
        {10, Kind::tensor},
        {11, Kind::graph},
        {22, Kind::sparse},
        {23, Kind::sparse}}},
      {Kind::sparse, {{1, Kind::tensor}, {2, Kind::tensor}}},
      {Kind::tensor, {}}};
  const auto& fields = kFields.at(kind);
  const auto found = fields.find(number);
  return found == fields.end() ? std::nullopt : std::optional(found->second);
}

std::uint64_t varint(std::string_view data, std::size_t& position) {
  std::uint64_t result = 0;
  for (int shift = 0;; shift += 7) {
    if (shift > 63) throw std::invalid_argument("a number is too long");
    if (position >= data.size()) throw std::invalid_argument("it is cut off");
    const auto byte = static_cast<unsigned char>(data[position++]);
    result |= std::uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return result;
  }
}

void scan(std::string_view data, Kind kind, int depth, const std::string& name) {
  if (depth > kDeepest) throw std::invalid_argument("messages nested too deeply");
  for (std::size_t position = 0; position < data.size();) {
    const std::uint64_t key = varint(data, position);
    // protobuf drops the upper bits, so that such a key would name another field there than here
    if (key >= std::uint64_t{1} << 32) throw std::invalid_argument("a field number is too large");
    const std::uint64_t number = key >> 3;
    const int wire = static_cast<int>(key & 7);
    std::uint64_t value = 0;
    std::string_view bytes;
    if (wire == kVarint) {
      value = varint(data, position);
    } else if (wire == kBytes || wire == kFixed64 || wire == kFixed32) {
      const std::uint64_t size = wire == kBytes ? varint(data, position) : wire == kFixed64 ? 8 : 4;
      if (size > data.size() - position) throw std::invalid_argument("it is cut off");
      bytes = data.substr(position, size);
      position += size;
    } else {
      throw std::invalid_argument("unknown wire type " + std::to_string(wire));
    }
    if (kind == Kind::tensor &&
        (number == kExternalData || (number == kDataLocation && wire == kVarint && value == 1))) {
      throw ManifestError(name + ": keeps tensors in another file, which a bundle may not");
    }
    if (wire != kBytes) continue;
    if (const auto inner = nested(kind, number)) scan(bytes, *inner, depth + 1, name);
  }
}

}  // namespace

void refuse_external_data(std::string_view model, const std::string& name) {
  try {
    if (model.empty()) throw std::invalid_argument("it is empty");
    scan(model, Kind::model, 0, name);
  } catch (const std::invalid_argument& error) {
    throw ManifestError(name + ": not an ONNX model (" + error.what() + ")");
  }
}

}  // namespace genedge
