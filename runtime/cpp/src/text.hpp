// UTF-8 as Python sees it: lengths in code points, quoting, what is printable.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace genedge {

std::u32string decoded(std::string_view utf8);
std::string encoded(char32_t point);
/// The number of code points.
std::size_t length_of(std::string_view utf8);
/// The first 80 code points.
std::string cut(std::string_view utf8);
/// As Python's repr of a text: in quotes, with escapes for what is not printable.
std::string in_quotes(std::string_view utf8);
/// Whether a terminal may show it; as Python's str.isprintable, except that code points without a meaning count.
bool is_printable(char32_t point);
/// Without white space at the ends.
std::string_view trimmed(std::string_view text);
std::string joined(const std::vector<std::string>& parts, const char* between = ", ");
std::vector<std::string> split(std::string_view text, char separator);
/// `%g`, as in Python's messages.
std::string general(double value);
/// Fixed digits behind the point.
std::string with_digits(double value, int digits);
/// A finite decimal number, nothing for anything else.
std::optional<double> number_of(std::string_view text);
bool all_digits(std::string_view text);
std::string lower(std::string_view ascii);
bool starts_with(std::string_view text, std::string_view start);
bool ends_with(std::string_view text, std::string_view end);

}  // namespace genedge
