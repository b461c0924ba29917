#include "text.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <locale>
#include <sstream>

#include "genedge/error.hpp"

namespace genedge {

std::u32string decoded(std::string_view utf8) {
  std::u32string result;
  for (std::size_t i = 0; i < utf8.size();) {
    const auto first = static_cast<unsigned char>(utf8[i]);
    const int more = first < 0x80 ? 0 : first >> 5 == 6 ? 1 : first >> 4 == 14 ? 2 : first >> 3 == 30 ? 3 : -1;
    if (more < 0 || i + more >= utf8.size()) {
      result += U'\uFFFD';
      ++i;
      continue;
    }
    char32_t point = more == 0 ? first : first & (0x3F >> more);
    bool good = true;
    for (int k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(utf8[i + k]);
      good = good && next >> 6 == 2;
      point = point << 6 | (next & 0x3F);
    }
    result += good ? point : U'\uFFFD';
    i += good ? more + 1 : 1;
  }
  return result;
}

std::string encoded(char32_t point) {
  if (point < 0x80) return {static_cast<char>(point)};
  std::string tail;
  int room = 0x3F;  // what the first byte can still hold
  while (static_cast<int>(point) > room) {
    tail.insert(tail.begin(), static_cast<char>(0x80 | (point & 0x3F)));
    point >>= 6;
    room = room == 0x3F ? 0x1F : room >> 1;
  }
  const int head = tail.size() == 1 ? 0xC0 : tail.size() == 2 ? 0xE0 : 0xF0;
  return static_cast<char>(head | static_cast<int>(point)) + tail;
}

std::size_t length_of(std::string_view utf8) { return decoded(utf8).size(); }

std::string cut(std::string_view utf8) {
  std::string result;
  for (const char32_t point : decoded(utf8).substr(0, 80)) result += encoded(point);
  return result;
}

bool is_printable(char32_t point) {
  // the categories Cc, Cf, Co, Cs, Zl, Zp, and Zs but for the space
  static constexpr char32_t kRanges[][2] = {
      {0x00, 0x1F},       {0x7F, 0xA0},       {0xAD, 0xAD},       {0x600, 0x605},     {0x61C, 0x61C},
      {0x6DD, 0x6DD},     {0x70F, 0x70F},     {0x890, 0x891},     {0x8E2, 0x8E2},     {0x1680, 0x1680},
      {0x180E, 0x180E},   {0x2000, 0x200F},   {0x2028, 0x202F},   {0x205F, 0x206F},   {0x3000, 0x3000},
      {0xD800, 0xF8FF},   {0xFEFF, 0xFEFF},   {0xFFF0, 0xFFFB},   {0xFFFE, 0xFFFF},   {0x110BD, 0x110BD},
      {0x110CD, 0x110CD}, {0x13430, 0x1343F}, {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0xE0000, 0xE00FF},
      {0xF0000, 0x10FFFF}};
  return std::none_of(std::begin(kRanges), std::end(kRanges),
                      [&](const auto& range) { return range[0] <= point && point <= range[1]; });
}

namespace {

std::string escaped(char32_t point) {
  char text[16];
  if (point == '\n') return "\\n";
  if (point == '\r') return "\\r";
  if (point == '\t') return "\\t";
  const char* form = point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(text, sizeof text, form, static_cast<unsigned>(point));
  return text;
}

}  // namespace

std::string in_quotes(std::string_view utf8) {
  const bool single = utf8.find('\'') == std::string_view::npos || utf8.find('"') != std::string_view::npos;
  const char mark = single ? '\'' : '"';
  std::string result(1, mark);
  for (const char32_t point : decoded(utf8)) {
    if (point == U'\\' || point == static_cast<char32_t>(mark)) {
      result += '\\';
      result += static_cast<char>(point);
    } else {
      result += is_printable(point) ? encoded(point) : escaped(point);
    }
  }
  return result + mark;
}

std::string printable(std::string_view text) {
  std::string result;
  for (const char32_t point : decoded(text)) result += is_printable(point) ? encoded(point) : escaped(point);
  return result;
}

std::string_view trimmed(std::string_view text) {
  constexpr const char* kSpace = " \t\n\r\f\v";
  const auto begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::string joined(const std::vector<std::string>& parts, const char* between) {
  std::string result;
  for (std::size_t i = 0; i < parts.size(); ++i) result += (i ? between : "") + parts[i];
  return result;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0;;) {
    const auto end = text.find(separator, begin);
    parts.emplace_back(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

std::string general(double value) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out << value;
  return out.str();
}

std::string with_digits(double value, int digits) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out.setf(std::ios::fixed);
  out.precision(digits);
  out << value;
  return out.str();
}

std::optional<double> number_of(std::string_view text) {
  text = trimmed(text);
  if (text.empty() || text.find_first_not_of("0123456789+-.eE") != std::string_view::npos) return std::nullopt;
  std::istringstream in{std::string(text)};
  in.imbue(std::locale::classic());
  double value = 0;
  in >> value;
  if (in.fail() || in.peek() != std::istringstream::traits_type::eof() || !std::isfinite(value)) return std::nullopt;
  return value;
}

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

std::string lower(std::string_view ascii) {
  std::string result(ascii);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](char letter) { return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + 32) : letter; });
  return result;
}

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace genedge
