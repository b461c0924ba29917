// Options of the command line, parsed as argparse does it for `python -m runtime`.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "genedge/engine.hpp"
#include "genedge/session.hpp"
#include "genedge/video.hpp"

namespace genedge {

/// What a verb takes.
struct Option {
  std::string name;     // --output, or the name of a positional in capitals
  std::string letter;   // -o, or empty
  std::string metavar;  // empty for a switch
  std::string help;
  bool required = false;
  bool repeated = false;
};

/// What was given: every option's values, a switch's being "".
class Options {
 public:
  /// Throws UsageError for anything that `known` does not have.
  Options(const std::vector<Option>& known, const std::vector<std::string>& arguments);

  bool has(const std::string& name) const { return values_.count(name) > 0; }
  /// The last value given, else `otherwise`.
  std::string text(const std::string& name, const std::string& otherwise = "") const;
  std::vector<std::string> all(const std::string& name) const;
  /// A whole number from 0 to 2^20. Throws UsageError for anything else.
  std::optional<int> count(const std::string& name) const;
  /// A number within bounds; `what` names it in the complaint.
  std::optional<double> number(const std::string& name, double least, double most, const std::string& what) const;

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

/// One word of the command line, and what it does; `run` gives the exit code.
struct Verb {
  std::string name;
  std::string help;
  std::vector<Option> options;
  std::function<int(const Options&)> run;
};

Verb run_verb();
Verb deid_verb();
Verb verify_verb();
Verb bench_verb();
Verb doctor_verb();

// -- what several verbs take --------------------------------------------------------------------------------------------

std::vector<Option> engine_options();
/// `preset`: the usual one.
std::vector<Option> video_options(const std::string& preset = "light");
Option json_option();
std::vector<Option> operator+(std::vector<Option> some, const std::vector<Option>& more);

/// What `engine_options` say. Throws UsageError where an option for TensorRT is given and no choice uses it.
EngineOptions engine_options_of(const Options& options, const std::vector<Choice>& choices);
SourceOptions source_options_of(const Options& options);
SinkOptions sink_options_of(const Options& options, const std::string& preset = "light");

/// (width, height) of an option HxW.
cv::Size frame_size(const std::string& option, const std::string& text);

/// Write a JSON text, whole or not at all; `-` is standard output.
void write_json(const std::string& path, const std::string& json);

/// A line for people, on standard error.
void say(const std::string& line);
/// A line of the result: on standard output, or standard error where the JSON takes that.
void print(const Options& options, const std::string& line);

/// Aligned columns as plain text; the first `left` columns to the left, figures to the right.
std::string table(const std::vector<std::vector<std::string>>& rows, std::size_t left);

/// Steps of a long job to stderr, with the seconds since the start.
std::function<void(const std::string&)> told_steps();

}  // namespace genedge
