#include "options.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <numeric>

#include "genedge/error.hpp"
#include "live.hpp"
#include "text.hpp"

namespace genedge {
namespace {

/// Options of `python -m runtime` that are not here.
const std::vector<std::string> kOfPython = {"--control",     "--reconnect",  "--input-timeout", "--input-option",
                                            "--host",        "--token-file", "--resume",        "--min-shape",
                                            "--opt-shape",   "--max-shape",
                                            "--vault",       "--review",     "--ask-passcode"};

const Option* found(const std::vector<Option>& known, const std::string& name) {
  for (const Option& option : known) {
    if (!name.empty() && (option.name == name || option.letter == name)) return &option;
  }
  return nullptr;
}

}  // namespace

Options::Options(const std::vector<Option>& known, const std::vector<std::string>& arguments) {
  std::vector<const Option*> positionals;
  for (const Option& option : known) {
    if (option.name[0] != '-') positionals.push_back(&option);
  }
  std::size_t placed = 0;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string name = arguments[i];
    if (name.size() < 2 || name[0] != '-') {
      if (placed == positionals.size()) throw UsageError("unrecognized argument: " + name);
      values_[positionals[placed++]->name].push_back(name);
      continue;
    }
    std::optional<std::string> value;
    const auto equals = name.find('=');
    if (starts_with(name, "--") && equals != std::string::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    } else if (!starts_with(name, "--") && name.size() > 2 && found(known, name.substr(0, 2)) != nullptr) {
      value = name.substr(2);  // -bBUNDLE
      name = name.substr(0, 2);
    }
    const Option* option = found(known, name);
    if (option == nullptr) {
      const bool of_python = std::find(kOfPython.begin(), kOfPython.end(), name) != kOfPython.end();
      throw UsageError(of_python ? name + " is an option of `python -m runtime` only: leave it out"
                                 : "unrecognized argument: " + name);
    }
    if (option->metavar.empty()) {
      if (value) throw UsageError(name + " takes no value");
      values_[option->name] = {""};
      continue;
    }
    if (!value) {
      if (i + 1 == arguments.size()) throw UsageError(name + " needs a value: " + option->metavar);
      value = arguments[++i];
    }
    if (!option->repeated) values_[option->name].clear();
    values_[option->name].push_back(*value);
  }
  std::vector<std::string> missing;
  for (const Option& option : known) {
    if (option.required && !has(option.name)) {
      missing.push_back(option.letter.empty() ? option.name : option.letter + "/" + option.name);
    }
  }
  if (!missing.empty()) throw UsageError("the following arguments are required: " + joined(missing));
}

std::string Options::text(const std::string& name, const std::string& otherwise) const {
  const auto values = values_.find(name);
  return values == values_.end() ? otherwise : values->second.back();
}

std::vector<std::string> Options::all(const std::string& name) const {
  const auto values = values_.find(name);
  return values == values_.end() ? std::vector<std::string>() : values->second;
}

std::optional<int> Options::count(const std::string& name) const {
  if (!has(name)) return std::nullopt;
  const std::string value = text(name);
  constexpr int kMost = 1 << 20;
  if (!all_digits(value) || value.size() > 9 || std::stoi(value) > kMost) {
    throw UsageError("argument " + name + ": " + in_quotes(value) + " is no whole number from 0 to " +
                     std::to_string(kMost));
  }
  return std::stoi(value);
}

std::optional<double> Options::number(const std::string& name, double least, double most,
                                      const std::string& what) const {
  if (!has(name)) return std::nullopt;
  const auto value = number_of(text(name));
  if (!value || !(least <= *value && *value <= most)) {
    throw UsageError("argument " + name + ": " + in_quotes(text(name)) + " is no " + what + " from " + general(least) +
                     " to " + general(most));
  }
  return value;
}

std::vector<Option> engine_options() {
  return {
      {"--backend", "", "NAME", "auto, tensorrt, openvino, or null: repeats pixels, to measure (default: auto)"},
      {"--precision", "", "NAME", "auto, fp32, bf16, fp16 or int8 (default: auto)"},
      {"--threads", "", "N", "engine threads, 0 lets the engine choose (default: 0)"},
      {"--engine-cache", "", "DIR", "where TensorRT engines are kept (default: engines/ in the bundle)"},
      {"--workspace", "", "MIB", "most GPU memory for intermediate results"},
      {"--builder-optimization-level", "", "N", "0 (built fast) to 5 (runs fast); from TensorRT 8.6 on"},
      {"--timing-cache", "", "FILE", "what was measured before (default: a file beside the engines)"},
      {"--dla-core", "", "N", "deep-learning accelerator of a Jetson, with the GPU behind it"},
      {"--version-compatible", "", "", "for later TensorRT versions too; from 8.6 on"},
      {"--hardware-compatible", "", "", "for all GPUs from Ampere on; from 8.6 on"},
  };
}

std::vector<Option> video_options(const std::string& preset) {
  return {
      {"--max-frames", "", "N", "stop after N frames"},
      {"--codec", "", "NAME", "h264, hevc or vp9 (default: h264, vp9 for .webm)"},
      {"--crf", "", "Q", "quality, smaller is better (default: 18 for h264)"},
      {"--preset", "", "NAME", "light, or x264/x265 speed (default: " + preset + ")"},
      {"--dump-raw", "", "FILE", "also write every frame before it is encoded, as raw bytes (height x width x 3, BGR)"},
      {"--input-width", "", "N", "asked of a camera, in pixels"},
      {"--input-height", "", "N", "asked of a camera, in pixels"},
      {"--input-rate", "", "FPS", "asked of a camera; rate of a picture sequence (default: 25)"},
      {"--input-codec", "", "XXXX", "asked of a camera, such as MJPG or YUYV"},
      {"--realtime", "", "", "play a file at its own rate as a camera would: the newest frame wins"},
      {"--max-latency-ms", "", "MS", "of live sources: drop frames that were captured longer ago than this"},
      {"--overwrite", "", "", "replace an existing output"},
      {"--quiet", "", "", "no progress line"},
  };
}

Option json_option() { return {"--json", "", "FILE", "write the result as JSON (- for standard output)"}; }

std::vector<Option> operator+(std::vector<Option> some, const std::vector<Option>& more) {
  some.insert(some.end(), more.begin(), more.end());
  return some;
}

EngineOptions engine_options_of(const Options& options, const std::vector<Choice>& choices) {
  std::vector<std::string> backends;
  for (const Choice& choice : choices) backends.push_back(choice.backend);
  std::sort(backends.begin(), backends.end());
  backends.erase(std::unique(backends.begin(), backends.end()), backends.end());
  if (std::find(backends.begin(), backends.end(), "tensorrt") == backends.end()) {
    for (const char* name : {"--engine-cache", "--workspace", "--builder-optimization-level", "--timing-cache",
                             "--dla-core", "--version-compatible", "--hardware-compatible"}) {
      if (!options.has(name)) continue;
      throw UsageError(std::string(name) + " is for TensorRT, which is not used here" +
                       (backends.empty() ? "" : " (" + joined(backends) + " is)") + ": leave it out");
    }
  }
  EngineOptions engine;
  engine.threads = options.count("--threads").value_or(0);
  auto& tensorrt = engine.tensorrt;
  tensorrt.engine_cache = options.text("--engine-cache");
  tensorrt.workspace_mib = options.count("--workspace").value_or(-1);
  tensorrt.optimization_level = options.count("--builder-optimization-level").value_or(-1);
  tensorrt.timing_cache = options.text("--timing-cache");
  tensorrt.dla_core = options.count("--dla-core").value_or(-1);
  tensorrt.version_compatible = options.has("--version-compatible");
  tensorrt.hardware_compatible = options.has("--hardware-compatible");
  tensorrt.progress = told_steps();
  return engine;
}

SourceOptions source_options_of(const Options& options) {
  SourceOptions wishes;
  wishes.width = options.count("--input-width").value_or(0);
  wishes.height = options.count("--input-height").value_or(0);
  if (options.has("--input-rate")) {
    const std::string text = options.text("--input-rate");
    const auto parts = split(text, '/');
    const auto above = number_of(parts[0]), below = parts.size() > 1 ? number_of(parts[1]) : std::optional(1.0);
    const double rate = above && below && *below > 0 && parts.size() < 3 ? *above / *below : 0;
    if (!(rate > 0 && rate <= 1000)) {
      throw UsageError("argument --input-rate: " + in_quotes(text) + " is no frame rate such as 25 or 30000/1001");
    }
    const bool whole = *above == std::floor(*above) && *below == std::floor(*below);
    std::int64_t num = std::llround(*above * (whole ? 1 : 1000)), den = std::llround(*below * (whole ? 1 : 1000));
    const std::int64_t common = std::gcd(num, den);
    wishes.rate = Rational{num / common, den / common};
  }
  wishes.fourcc = options.text("--input-codec");
  if (options.has("--input-codec") && wishes.fourcc.size() != 4) {
    throw UsageError("argument --input-codec: " + in_quotes(wishes.fourcc) +
                     " is no code of four letters such as MJPG");
  }
  wishes.realtime = options.has("--realtime");
  wishes.max_latency = options.count("--max-latency-ms").value_or(0) / 1000.0;
  return wishes;
}

SinkOptions sink_options_of(const Options& options, const std::string& preset) {
  SinkOptions wishes;
  wishes.overwrite = options.has("--overwrite");
  wishes.codec = options.text("--codec");
  wishes.crf = options.number("--crf", 0, 63, "quality");
  wishes.preset = options.text("--preset", preset);
  wishes.dump_raw = options.text("--dump-raw");
  return wishes;
}

cv::Size frame_size(const std::string& option, const std::string& text) {
  const auto parts = split(lower(text), 'x');
  const bool digits = parts.size() == 2 && all_digits(parts[0]) && all_digits(parts[1]) && text.size() < 12;
  const int height = digits ? std::stoi(parts[0]) : 0, width = digits ? std::stoi(parts[1]) : 0;
  if (height < 1 || width < 1 || height > 16384 || width > 16384) {
    throw UsageError("argument " + option + ": " + in_quotes(text) + " is not HEIGHTxWIDTH, for example 360x640");
  }
  return {width, height};
}

void write_json(const std::string& path, const std::string& json) {
  if (path == "-") {
    std::cout << json << std::endl;
    return;
  }
  const auto slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  const std::string temporary = folder + "." + path.substr(folder.size()) + ".part";
  std::ofstream file(temporary, std::ios::binary);
  file << json << '\n';
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(temporary.c_str());
    throw Error(path + ": " + reason);
  }
}

void say(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

void print(const Options& options, const std::string& line) {
  std::fprintf(options.text("--json") == "-" ? stderr : stdout, "%s\n", line.c_str());
}

std::string table(const std::vector<std::vector<std::string>>& rows, std::size_t left) {
  std::vector<std::size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], length_of(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string blank(widths[i] - length_of(row[i]), ' ');
      line += (i ? "  " : "") + (i < left ? row[i] + blank : blank + row[i]);
    }
    text += (text.empty() ? "" : "\n") + line.substr(0, line.find_last_not_of(' ') + 1);
  }
  return text;
}

std::function<void(const std::string&)> told_steps() {
  return [start = steady_seconds()](const std::string& text) {
    std::fprintf(stderr, "[%6.1f s] %s\n", steady_seconds() - start, text.c_str());
  };
}

}  // namespace genedge
