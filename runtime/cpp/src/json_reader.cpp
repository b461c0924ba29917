#include "json_reader.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "genedge/manifest.hpp"
#include "text.hpp"

namespace genedge {
namespace {

constexpr std::size_t kDeepest = 900;  // lists and objects in one another; about as deep as Python reads

/// Builds a Json from what nlohmann's parser finds; it also sees keys that are there twice, and whole numbers that do
/// not fit. Returning false stops the parser.
class Builder {
 public:
  Json result;
  std::string error;

  bool null() { return add({}); }
  bool boolean(bool value) {
    Json json;
    json.kind = Json::Kind::boolean;
    json.boolean = value;
    return add(std::move(json));
  }
  bool number_integer(std::int64_t value) {
    Json json;
    json.kind = Json::Kind::integer;
    json.integer = value;
    json.real = static_cast<double>(value);
    return add(std::move(json));
  }
  bool number_unsigned(std::uint64_t value) {
    if (value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return number_integer(static_cast<std::int64_t>(value));
    }
    return number(Json::Kind::big_integer, static_cast<double>(value));
  }
  bool number_float(double value, const std::string& digits) {
    const bool whole = digits.find_first_of(".eE") == std::string::npos;
    return number(whole ? Json::Kind::big_integer : Json::Kind::real, value);
  }
  bool string(std::string& value) {
    Json json;
    json.kind = Json::Kind::text;
    json.text = std::move(value);
    return add(std::move(json));
  }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return open(Json::Kind::object); }
  bool key(std::string& value) {
    keys_.back() = std::move(value);
    return true;
  }
  bool end_object() {
    std::vector<std::string_view> names;
    for (const auto& member : open_.back().members) names.push_back(member.first);
    std::sort(names.begin(), names.end());
    if (std::adjacent_find(names.begin(), names.end()) != names.end()) {
      error = "an object has the same key twice";
      return false;
    }
    return shut();
  }
  bool start_array(std::size_t) { return open(Json::Kind::list); }
  bool end_array() { return shut(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& problem) {
    const std::string words = problem.what();
    const auto end = words.find("] ");
    error = printable(end == std::string::npos ? words : words.substr(end + 2));
    return false;
  }

 private:
  bool number(Json::Kind kind, double value) {
    Json json;
    json.kind = kind;
    json.real = value;
    return add(std::move(json));
  }
  bool open(Json::Kind kind) {
    if (open_.size() >= kDeepest) {
      error = "nested too deep";
      return false;
    }
    open_.emplace_back();
    open_.back().kind = kind;
    keys_.emplace_back();
    return true;
  }
  bool shut() {
    Json json = std::move(open_.back());
    open_.pop_back();
    keys_.pop_back();
    return add(std::move(json));
  }
  bool add(Json json) {
    if (open_.empty()) {
      result = std::move(json);
    } else if (open_.back().kind == Json::Kind::list) {
      open_.back().items.push_back(std::move(json));
    } else {
      open_.back().members.emplace_back(std::move(keys_.back()), std::move(json));
    }
    return true;
  }

  std::vector<Json> open_;
  std::vector<std::string> keys_;
};

/// The text with whole numbers of more than 305 digits cut to that: the parser takes none that exceeds a double, but the
/// contract does, where nobody asks for a number of a certain size. Nobody takes more than 4300 digits.
std::string shortened(std::string_view text) {
  constexpr std::size_t kKept = 305, kMost = 4300;
  std::string result;
  bool in_text = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_text && c == '\\' && i + 1 < text.size()) {
      result += c;
      result += text[++i];
      continue;
    }
    if (c == '"') in_text = !in_text;
    const auto end = in_text || c < '0' || c > '9' ? i : std::min(text.find_first_not_of("0123456789", i), text.size());
    if (end - i <= kKept) {
      result += c;
      continue;
    }
    if (end - i > kMost) throw std::invalid_argument("a number of more than 4300 digits");
    const bool whole = end == text.size() || std::string_view(".eE").find(text[end]) == std::string_view::npos;
    result += text.substr(i, whole ? kKept : end - i);
    i = end - 1;
  }
  return result;
}

bool is_letter_or_digit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

bool is_word(std::string_view text, bool underscore_first) {
  if (text.empty() || text.size() > 100) return false;
  if (!is_letter_or_digit(text[0]) && !(underscore_first && text[0] == '_')) return false;
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return is_letter_or_digit(c) || c == '.' || c == '_' || c == '-'; });
}

nlohmann::json as_nlohmann(const Json& json) {
  switch (json.kind) {
    case Json::Kind::null: return nullptr;
    case Json::Kind::boolean: return json.boolean;
    case Json::Kind::integer: return json.integer;
    case Json::Kind::big_integer:
    case Json::Kind::real: return json.real;
    case Json::Kind::text: return json.text;
    case Json::Kind::list: {
      auto list = nlohmann::json::array();
      for (const auto& item : json.items) list.push_back(as_nlohmann(item));
      return list;
    }
    case Json::Kind::object: break;
  }
  auto object = nlohmann::json::object();
  for (const auto& [key, value] : json.members) object[key] = as_nlohmann(value);
  return object;
}

}  // namespace

const Json* Json::find(std::string_view key) const {
  for (const auto& member : members) {
    if (member.first == key) return &member.second;
  }
  return nullptr;
}

std::string Json::dump() const { return as_nlohmann(*this).dump(); }

Json parse_json(std::string_view text) {
  if (starts_with(text, "\xEF\xBB\xBF")) throw std::invalid_argument("it begins with a byte order mark");
  Builder builder;
  const std::string copy = shortened(text);
  if (!nlohmann::json::sax_parse(copy, &builder)) throw std::invalid_argument(builder.error);
  return std::move(builder.result);
}

bool is_name(std::string_view text) { return is_word(text, false); }

bool is_plain_path(std::string_view text) {
  const auto parts = split(text, '/');
  return std::all_of(parts.begin(), parts.end(), [](const std::string& part) { return is_word(part, true); });
}

JsonReader::JsonReader(const Json& content, std::string place) : content_(&content), place_(std::move(place)) {
  if (!content.is(Json::Kind::object)) throw ManifestError(place_ + ": must be an object");
}

void JsonReader::refuse(const std::string& key, const std::string& why) const {
  throw ManifestError(place_ + "." + key + ": " + why);
}

const Json& JsonReader::get(const std::string& key) const {
  const Json* value = content_->find(key);
  if (value == nullptr) refuse(key, "missing");
  return *value;
}

std::vector<std::string> JsonReader::keys(const std::vector<std::string>& allowed) const {
  std::vector<std::string> unknown, known;
  for (const auto& member : content_->members) {
    if (std::find(allowed.begin(), allowed.end(), member.first) == allowed.end()) unknown.push_back(member.first);
  }
  if (!unknown.empty()) {
    const auto& first = *std::min_element(unknown.begin(), unknown.end());
    throw ManifestError(place_ + ": unknown entry " + in_quotes(cut(first)) + "; known: " + joined(allowed));
  }
  std::copy_if(allowed.begin(), allowed.end(), std::back_inserter(known), [&](const auto& key) { return has(key); });
  return known;
}

std::vector<std::string> JsonReader::names() const {
  std::vector<std::string> result;
  for (const auto& member : content_->members) {
    if (!is_name(member.first)) {
      throw ManifestError(place_ + ": " + in_quotes(cut(member.first)) +
                          " is no name of letters, digits, dot, dash and underscore");
    }
    result.push_back(member.first);
  }
  return result;
}

JsonReader JsonReader::object(const std::string& key) const { return {get(key), place_ + "." + key}; }

std::vector<JsonReader> JsonReader::objects(const std::string& key, std::size_t at_least, std::size_t at_most) const {
  const Json& list = get(key);
  if (!list.is(Json::Kind::list) || list.items.size() < at_least || list.items.size() > at_most) {
    refuse(key, "must be a list of " + std::to_string(at_least) + " to " + std::to_string(at_most) + " objects");
  }
  std::vector<JsonReader> readers;
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    readers.emplace_back(list.items[i], place_ + "." + key + "[" + std::to_string(i) + "]");
  }
  return readers;
}

std::string JsonReader::text(const std::string& key) const {
  const Json& value = get(key);
  if (!value.is(Json::Kind::text) || length_of(value.text) > 10'000) refuse(key, "must be a text");
  return value.text;
}

std::string JsonReader::name(const std::string& key) const {
  const std::string value = text(key);
  if (!is_name(value)) refuse(key, in_quotes(cut(value)) + " must consist of letters, digits, dot, dash and underscore");
  return value;
}

std::string JsonReader::choice(const std::string& key, const std::vector<std::string>& allowed) const {
  const std::string value = text(key);
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    refuse(key, in_quotes(cut(value)) + " is none of " + joined(allowed));
  }
  return value;
}

std::string JsonReader::sha256(const std::string& key) const {
  const std::string value = text(key);
  if (value.size() != 64 || value.find_first_not_of("0123456789abcdef") != std::string::npos) {
    refuse(key, in_quotes(cut(value)) + " must consist of 64 lower-case hexadecimal digits");
  }
  return value;
}

std::string JsonReader::file(const std::string& key) const {
  const std::string value = text(key);
  if (!is_plain_path(value)) refuse(key, in_quotes(cut(value)) + " is not a plain path inside the bundle");
  return value;
}

std::int64_t JsonReader::integer(const std::string& key, std::int64_t low, std::int64_t high) const {
  const Json& value = get(key);
  if (!value.is(Json::Kind::integer) || value.integer < low || value.integer > high) {
    refuse(key, "must be a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return value.integer;
}

double JsonReader::number(const std::string& key) const {
  const Json& value = get(key);
  if (!value.is_number() || !(std::abs(value.real) < 1e300)) refuse(key, "must be a finite number");
  return value.real;
}

std::vector<double> JsonReader::numbers(const std::string& key, std::size_t at_least, std::size_t at_most) const {
  const Json& list = get(key);
  if (!list.is(Json::Kind::list) || list.items.size() < at_least || list.items.size() > at_most) {
    refuse(key, "must be a list of " + std::to_string(at_least) + " to " + std::to_string(at_most) + " numbers");
  }
  std::vector<double> values;
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    const Json& item = list.items[i];
    if (!item.is_number() || !(std::abs(item.real) < 1e300)) {
      refuse(key + "." + std::to_string(i), "must be a finite number");
    }
    values.push_back(item.real);
  }
  return values;
}

std::vector<std::string> JsonReader::texts(const std::string& key, std::size_t at_most) const {
  const Json& list = get(key);
  std::vector<std::string> values;
  bool good = list.is(Json::Kind::list) && list.items.size() <= at_most;
  for (const Json& item : list.items) {
    good = good && item.is(Json::Kind::text);
    values.push_back(item.text);
  }
  if (!good) refuse(key, "must be a list of at most " + std::to_string(at_most) + " texts");
  return values;
}

bool JsonReader::boolean(const std::string& key) const {
  const Json& value = get(key);
  if (!value.is(Json::Kind::boolean)) refuse(key, "must be true or false");
  return value.boolean;
}

std::optional<std::array<int, 2>> JsonReader::size(const std::string& key) const {
  const Json& value = get(key);
  if (value.is(Json::Kind::null)) return std::nullopt;
  if (!value.is(Json::Kind::list) || value.items.size() != 2) refuse(key, "must be [height, width] or null");
  std::array<int, 2> sides{};
  for (int i = 0; i < 2; ++i) {
    const Json& side = value.items[i];
    if (!side.is(Json::Kind::integer) || side.integer < 1 || side.integer > kMaxSide) {
      refuse(key + (i ? ".width" : ".height"), "must be a whole number from 1 to " + std::to_string(kMaxSide));
    }
    sides[i] = static_cast<int>(side.integer);
  }
  return sides;
}

}  // namespace genedge
