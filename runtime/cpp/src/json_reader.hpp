// Strict reading of JSON from outside: size, encoding, keys, numbers; every complaint names the place.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "genedge/error.hpp"

namespace genedge {

/// A JSON value; the members of an object keep their order.
struct Json {
  enum class Kind { null, boolean, integer, big_integer, real, text, list, object };

  Kind kind = Kind::null;
  bool boolean = false;
  std::int64_t integer = 0;  // of `integer`
  double real = 0.0;         // of every number; a `big_integer` does not fit in 64 bits
  std::string text;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  bool is(Kind wanted) const { return kind == wanted; }
  bool is_number() const { return kind == Kind::integer || kind == Kind::big_integer || kind == Kind::real; }
  const Json* find(std::string_view key) const;
  /// As JSON text.
  std::string dump() const;
};

/// One JSON value. Throws std::invalid_argument with the reason for anything that MANIFEST.md does not allow.
Json parse_json(std::string_view text);

/// Typed access to one JSON object. Throws ManifestError.
class JsonReader {
 public:
  JsonReader(const Json& content, std::string place);

  const std::string& place() const { return place_; }
  const Json& content() const { return *content_; }
  bool has(std::string_view key) const { return content_->find(key) != nullptr; }
  const Json& get(const std::string& key) const;
  /// The keys that are there, in the order of `allowed`; any other is refused.
  std::vector<std::string> keys(const std::vector<std::string>& allowed) const;
  /// All keys, which must be names.
  std::vector<std::string> names() const;
  JsonReader object(const std::string& key) const;
  std::vector<JsonReader> objects(const std::string& key, std::size_t at_least, std::size_t at_most) const;
  std::string text(const std::string& key) const;
  std::string name(const std::string& key) const;
  std::string choice(const std::string& key, const std::vector<std::string>& allowed) const;
  std::string sha256(const std::string& key) const;
  std::string file(const std::string& key) const;
  std::int64_t integer(const std::string& key, std::int64_t low, std::int64_t high) const;
  double number(const std::string& key) const;
  std::vector<double> numbers(const std::string& key, std::size_t at_least, std::size_t at_most) const;
  std::vector<std::string> texts(const std::string& key, std::size_t at_most) const;
  bool boolean(const std::string& key) const;
  /// (height, width), or nothing for null.
  std::optional<std::array<int, 2>> size(const std::string& key) const;

 private:
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const;

  const Json* content_;
  std::string place_;
};

/// A text of letters, digits, dot, dash and underscore, at most 100, that starts with a letter or digit.
bool is_name(std::string_view text);
/// Plain relative path: parts joined by `/`, none of them `..`.
bool is_plain_path(std::string_view text);

}  // namespace genedge
