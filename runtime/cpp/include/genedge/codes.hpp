// Condition codes: what a conditional generator gets besides the frame, and how people say it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace genedge {

/// A rule for `size` numbers, float32.
///
/// `kind` is `vector` (any numbers from `low` to `high`), `one-hot` (`high` in one place, `low` in all others) or `bits`
/// (`low` or `high` in each place). `labels` name the places, or there are none. Numbers are compared as float32.
struct Code {
  std::string kind;
  std::vector<double> default_value;
  double low = 0.0;
  double high = 1.0;
  std::vector<std::string> labels;

  int size() const { return static_cast<int>(default_value.size()); }
  /// Throws UsageError for a rule that contradicts itself.
  void check_rule() const;
  /// Throws UsageError where `values` are not what this rule allows.
  void check(const std::vector<double>& values) const;
  /// The numbers that somebody has typed: a class or label, 0101 or labels joined by +, numbers, label=number pairs,
  /// random:SEED, passcode:TEXT (spaces at the ends count there only). Throws UsageError, which calls the code `name`.
  std::vector<float> parsed(std::string_view text, const std::string& name) const;
};

/// The bits that a passcode stands for, the same on every machine and in Python.
///
/// Python brings the text into Unicode's form NFC first; here UsageError is thrown for a text that may not be in it.
std::vector<bool> passcode_bits(std::string_view text, int size);

}  // namespace genedge
