#include "genedge/codes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "genedge/error.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace genedge {
namespace {

constexpr int kMaxSize = 4096;
constexpr std::size_t kMaxLabel = 60;
constexpr double kMaxNumber = std::numeric_limits<float>::max();
constexpr std::string_view kPasscode = "passcode:";
constexpr std::string_view kRandom = "random:";

std::string range_of(const Code& code) { return general(code.low) + " to " + general(code.high); }

std::string listed(const std::vector<std::string>& labels) {
  const auto shown = std::min<std::size_t>(labels.size(), 8);
  return joined({labels.begin(), labels.begin() + static_cast<std::ptrdiff_t>(shown)}) +
         (labels.size() > shown ? ", …" : "");
}

double number(std::string_view text, const std::string& name) {
  const auto value = number_of(text);
  if (!value) throw UsageError(name + ": " + in_quotes(cut(trimmed(text))) + " is no number");
  return *value;
}

/// Where in `labels` a label is, or -1.
int place_of(const std::vector<std::string>& labels, std::string_view label) {
  const auto found = std::find(labels.begin(), labels.end(), label);
  return found == labels.end() ? -1 : static_cast<int>(found - labels.begin());
}

int class_of(const Code& code, std::string_view text, const std::string& name) {
  if (const int place = place_of(code.labels, text); place >= 0) return place;
  if (all_digits(text) && text.size() < 10 && std::stoi(std::string(text)) < code.size()) {
    return std::stoi(std::string(text));
  }
  const std::string known = code.labels.empty() ? "" : " (" + listed(code.labels) + ")";
  throw UsageError(name + " has " + std::to_string(code.size()) + " classes, 0 to " + std::to_string(code.size() - 1) +
                   known + "; " + cut(text) + " is none of them");
}

std::vector<bool> bits_of(const Code& code, std::string_view text, const std::string& name) {
  const std::string start(text.substr(0, text.find_first_not_of(" \t\n\r\f\v")));
  text.remove_prefix(std::min(start.size(), text.size()));
  if (starts_with(text, kPasscode)) return passcode_bits(text.substr(kPasscode.size()), code.size());
  text = trimmed(text);
  std::vector<bool> bits(code.default_value.size());
  if (!text.empty() && text.find_first_not_of("01") == std::string_view::npos) {
    if (text.size() == bits.size()) {
      for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = text[i] == '1';
      return bits;
    }
    if (place_of(code.labels, text) < 0) {
      throw UsageError(name + " has " + std::to_string(bits.size()) + " bits, not " + std::to_string(text.size()));
    }
  }
  const bool one = place_of(code.labels, text) >= 0;
  for (const auto& part : one ? std::vector<std::string>{std::string(text)} : split(text, '+')) {
    const int place = place_of(code.labels, trimmed(part));
    if (place < 0) {
      const std::string known = code.labels.empty() ? "" : ", or labels joined by + (" + listed(code.labels) + ")";
      throw UsageError(name + " takes " + std::to_string(bits.size()) + " digits 0 or 1" + known + "; " +
                       in_quotes(cut(trimmed(part))) + " is none of that");
    }
    bits[place] = true;
  }
  return bits;
}

std::vector<double> vector_of(const Code& code, std::string_view text, const std::string& name) {
  const auto size = code.default_value.size();
  if (starts_with(text, kRandom)) {
    const std::string seed(text.substr(kRandom.size()));
    if (!all_digits(seed) || seed.size() > 18) {
      throw UsageError(name + ": " + in_quotes(cut(seed)) + " is no seed: use a whole number, as in random:7");
    }
    std::vector<double> values;
    for (std::size_t place = 0; place < size; ++place) {
      const auto digest =
          sha256("genedge random " + std::to_string(std::stoll(seed)) + " " + std::to_string(place));
      const std::uint32_t first = std::uint32_t{digest[0]} << 24 | std::uint32_t{digest[1]} << 16 |
                                  std::uint32_t{digest[2]} << 8 | std::uint32_t{digest[3]};
      values.push_back(code.low + (code.high - code.low) * (first / 4294967295.0));
    }
    return values;
  }
  const auto parts = split(text, ',');
  if (text.find('=') != std::string_view::npos) {
    std::vector<double> values = code.default_value;
    for (const std::string_view part : parts) {
      const auto equals = part.rfind('=');
      const auto label = equals == std::string_view::npos ? std::string_view() : trimmed(part.substr(0, equals));
      const int place = place_of(code.labels, label);
      if (place < 0) {
        throw UsageError(name + ": " + in_quotes(cut(label)) + " is no label of it (" +
                         (code.labels.empty() ? "it has none" : listed(code.labels)) + ")");
      }
      values[place] = number(part.substr(equals + 1), name);
    }
    return values;
  }
  std::vector<double> numbers;
  for (std::size_t i = 0; i < std::min(parts.size(), size + 1); ++i) numbers.push_back(number(parts[i], name));
  if (parts.size() == 1) return std::vector<double>(size, numbers[0]);
  if (parts.size() != size) {
    throw UsageError(name + " has " + std::to_string(size) + " numbers, not " + std::to_string(parts.size()));
  }
  return numbers;
}

/// Whether a text is surely in the form NFC: of characters that do not combine with any of these.
bool is_composed(std::string_view text) {
  static constexpr char32_t kRanges[][2] = {{0x00, 0x2FF},   {0x388, 0x482},   {0x48A, 0x52F},
                                            {0x3041, 0x3096}, {0x30A1, 0x30FA}, {0x4E00, 0x9FFF},
                                            {0xAC00, 0xD7A3}};
  const auto points = decoded(text);
  return std::all_of(points.begin(), points.end(), [](char32_t point) {
    return std::any_of(std::begin(kRanges), std::end(kRanges),
                       [&](const auto& range) { return range[0] <= point && point <= range[1]; });
  });
}

}  // namespace

void Code::check_rule() const {
  if (kind != "vector" && kind != "one-hot" && kind != "bits") {
    throw UsageError("unknown kind of code " + in_quotes(cut(kind)) + ": choose among vector, one-hot, bits");
  }
  if (size() < 1 || size() > kMaxSize) {
    throw UsageError("a code has 1 to " + std::to_string(kMaxSize) + " numbers, not " + std::to_string(size()));
  }
  if (!(-kMaxNumber <= low && low < high && high <= kMaxNumber) ||
      static_cast<float>(low) >= static_cast<float>(high)) {
    throw UsageError("a code's range must rise, not from " + range_of(*this));
  }
  if (!labels.empty() && (static_cast<int>(labels.size()) != size() ||
                          std::set<std::string>(labels.begin(), labels.end()).size() != labels.size())) {
    throw UsageError("a code of " + std::to_string(size()) + " numbers needs as many different labels, not " +
                     std::to_string(labels.size()));
  }
  for (const auto& label : labels) {
    const auto points = decoded(label);
    if (points.empty() || points.size() > kMaxLabel || !std::all_of(points.begin(), points.end(), is_printable) ||
        points.front() == U' ' || points.back() == U' ') {
      throw UsageError("a label is a printable text of 1 to " + std::to_string(kMaxLabel) +
                       " characters, no space at its ends");
    }
  }
  check(default_value);
}

void Code::check(const std::vector<double>& values) const {
  if (static_cast<int>(values.size()) != size()) {
    throw UsageError("the code has " + std::to_string(size()) + " numbers, not " + std::to_string(values.size()));
  }
  const float least = static_cast<float>(low), most = static_cast<float>(high);
  const auto refuse = [&](std::size_t i, const std::string& words) {
    throw UsageError("number " + std::to_string(i) + " of the code is " + general(values[i]) + ", " + words);
  };
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!(std::abs(values[i]) <= kMaxNumber) || static_cast<float>(values[i]) < least ||
        static_cast<float>(values[i]) > most) {
      refuse(i, "outside " + range_of(*this));
    }
  }
  if (kind == "vector") return;
  int on = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float value = static_cast<float>(values[i]);
    if (value != least && value != most) refuse(i, "neither " + general(low) + " nor " + general(high));
    on += value == most;
  }
  if (kind == "one-hot" && on != 1) throw UsageError("exactly one number of the code must be " + general(high));
}

std::vector<float> Code::parsed(std::string_view text, const std::string& name) const {
  std::vector<double> values;
  if (kind == "vector") {
    values = vector_of(*this, trimmed(text), name);
    try {
      check(values);
    } catch (const UsageError& error) {
      throw UsageError(name + ": " + error.what());
    }
  } else {
    std::vector<bool> on(default_value.size());
    if (kind == "bits") {
      on = bits_of(*this, text, name);
    } else {
      on[class_of(*this, trimmed(text), name)] = true;
    }
    for (const bool each : on) values.push_back(each ? high : low);
  }
  return {values.begin(), values.end()};
}

std::vector<bool> passcode_bits(std::string_view text, int size) {
  if (text.empty()) throw UsageError("the passcode is empty");
  if (!is_composed(text)) {
    throw UsageError("the passcode has characters that this program cannot bring into Unicode's form NFC: "
                     "use `python -m runtime`, or letters and digits");
  }
  std::vector<bool> bits;
  for (int block = 0; static_cast<int>(bits.size()) < size; ++block) {
    std::string data("genedge passcode");
    data += '\0';
    for (int shift = 24; shift >= 0; shift -= 8) data += static_cast<char>(block >> shift);
    const auto digest = sha256(data.append(text));
    for (int i = 0; i < 256 && static_cast<int>(bits.size()) < size; ++i) {
      bits.push_back(digest[i / 8] >> (7 - i % 8) & 1);
    }
  }
  return bits;
}

}  // namespace genedge
