// The verbs `verify`, `bench` and `doctor`.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <thread>

#include "engines.hpp"
#include "genedge/error.hpp"
#include "genedge/metrics.hpp"
#include "live.hpp"
#include "options.hpp"
#include "report.hpp"
#include "stats.hpp"
#include "text.hpp"
#include "tiles.hpp"
#include "video_files.hpp"

namespace genedge {
namespace {

constexpr double kTensorRtFp16Db = 45.0;
constexpr int kRounds = 20, kLeast = 3;
constexpr double kEnough = 120.0;  // seconds after which no further round begins

/// What the user asked for, or everything that runs here.
std::vector<Choice> choices_of(const Bundle& bundle, const Options& options) {
  const std::string backend = options.text("--backend", "auto"), precision = options.text("--precision", "auto");
  if ((backend != "auto" && precision != "auto") || backend == "null") return {choose(bundle, backend, precision)};
  if (backend != "auto" || precision != "auto") choose(bundle, backend, precision);  // says why where nothing fits
  std::vector<Choice> choices;
  for (const Choice& choice : runnable(bundle)) {
    if ((backend == "auto" || choice.backend == backend) && (precision == "auto" || choice.precision == precision)) {
      choices.push_back(choice);
    }
  }
  if (choices.empty()) throw Error("no engine here runs a variant of " + bundle.manifest.name);
  return choices;
}

// --- verify ----------------------------------------------------------------------------------------------------------

/// The limits of bfloat16 are its own, since it is a precision but no artifact; those of fp16 are the same where
/// TensorRT computes it from the float32 graph.
std::string limits_key(const Choice& choice) {
  return choice.precision == "bf16" || choice.precision == "fp16" ? choice.precision : choice.variant;
}

std::vector<std::string> unproven(const Bundle& bundle, const Choice& choice, const Limits& limits) {
  std::vector<std::string> reasons;
  if (limits.empty()) reasons.push_back("the manifest states no limits for " + limits_key(choice));
  const auto measured = bundle.measured_digests();
  const auto& file = bundle.manifest.artifact(choice.variant)->file;
  const auto digest = measured.find(choice.variant);
  if (digest == measured.end()) {
    reasons.push_back("parity.json holds no measurement of " + choice.variant);
  } else if (digest->second != file.sha256) {
    reasons.push_back(file.file + " is not the file whose parity was measured at build time");
  }
  return reasons;
}

ParityReport verdict_on(const Bundle& bundle, const Choice& choice, const EngineOptions& engine) {
  Limits limits;
  if (const auto found = bundle.manifest.limits.find(limits_key(choice)); found != bundle.manifest.limits.end()) {
    limits = found->second;
  }
  if (limits.psnr_db && choice.backend == "tensorrt" && choice.precision == "fp16") {
    limits.psnr_db = std::min(*limits.psnr_db, kTensorRtFp16Db);
  }
  SessionOptions options;
  options.engine = engine;
  options.in_flight = 1;
  const auto session = open_session(bundle, choice, options);
  std::vector<std::pair<cv::Mat, cv::Mat>> pairs;
  for (std::size_t i = 0; i < bundle.manifest.golden.size(); ++i) {
    const auto [frame, reference] = bundle.golden(i);
    if (!session->codes().empty()) session->set_codes(bundle.manifest.golden[i].codes);
    pairs.emplace_back(reference, session->infer(frame));
  }
  ParityReport report = compare(pairs, limits);
  for (const auto& reason : unproven(bundle, choice, limits)) report.failures.push_back(reason);
  return report;
}

int verify(const Options& options) {
  const Bundle bundle = open_bundle(options.text("BUNDLE"));
  bundle.manifest.check_gives_images();
  const auto choices = choices_of(bundle, options);
  const EngineOptions engine = engine_options_of(options, choices);
  if (bundle.manifest.golden.empty()) {
    throw Error(bundle.folder.string() + " holds no golden frames to verify against: build it again");
  }
  std::vector<std::vector<std::string>> rows = {
      {"variant", "engine", "precision", "PSNR dB", "SSIM", "ΔE2000", "max", "p99.9", "verdict"}};
  std::vector<std::string> failures;
  nlohmann::json results = nlohmann::json::array();
  for (const Choice& choice : choices) {
    const ParityReport report = verdict_on(bundle, choice, engine);
    rows.push_back({choice.variant, choice.backend, choice.precision, with_digits(report.psnr_db, 2),
                    with_digits(report.ssim, 5), with_digits(report.delta_e, 4), std::to_string(report.max_abs),
                    std::to_string(report.p999_abs), report.passed() ? "met" : "NOT MET"});
    for (const auto& failure : report.failures) {
      failures.push_back("error: " + choice.variant + " on " + choice.backend + " in " + choice.precision + ": " +
                         failure);
    }
    results.push_back({{"backend", choice.backend},
                       {"precision", choice.precision},
                       {"variant", choice.variant},
                       {"frames", report.frames},
                       {"psnr_db", report.psnr_db},
                       {"ssim", report.ssim},
                       {"delta_e", report.delta_e},
                       {"max_abs", report.max_abs},
                       {"p999_abs", report.p999_abs},
                       {"changed", report.changed},
                       {"worst_frame", report.worst_frame},
                       {"passed", report.passed()},
                       {"failures", report.failures}});
  }
  if (options.has("--json")) {
    write_json(options.text("--json"), dumped({{"bundle", bundle.manifest.name}, {"results", results}}));
  }
  print(options, table(rows, 3));
  for (const auto& failure : failures) say(failure);
  if (!failures.empty()) return kNotMet;
  print(options, bundle.manifest.name + ": " + std::to_string(bundle.manifest.golden.size()) +
                     " golden frames, parity with PyTorch met");
  return kOk;
}

// --- bench -----------------------------------------------------------------------------------------------------------

int bench(const Options& options) {
  const auto rounds = options.count("--rounds");
  if (rounds && *rounds == 0) throw UsageError("--rounds must be at least 1");
  const Bundle bundle = open_bundle(options.text("BUNDLE"));
  bundle.manifest.check_gives_images();
  const cv::Size size = options.has("--size") ? frame_size("--size", options.text("--size"))
                                              : bundle.manifest.geometry.fixed_size.value_or(cv::Size(640, 360));
  const auto choices = choices_of(bundle, options);
  SessionOptions how;
  how.engine = engine_options_of(options, choices);
  how.in_flight = 1;
  if (bundle.manifest.golden.empty()) {
    throw Error(bundle.folder.string() + " holds no golden frame to measure with: build it again");
  }
  cv::Mat frame;
  cv::resize(bundle.golden(0).first, frame, size, 0, 0, cv::INTER_CUBIC);
  const auto progress = told_steps();
  std::vector<std::unique_ptr<Session>> sessions;
  for (const Choice& choice : choices) {
    progress("warming up " + choice.variant + " on " + choice.backend + " in " + choice.precision);
    sessions.push_back(fit_session(open_session(bundle, choice, how), bundle.manifest.geometry, size, -1));
    sessions.back()->warm_up(size);
  }
  std::vector<std::vector<double>> times(sessions.size());
  const double start = steady_seconds();
  cv::Mat out;
  for (int turn = 0; turn < rounds.value_or(kRounds); ++turn) {
    if (turn >= kLeast && !rounds && steady_seconds() - start > kEnough) break;
    for (std::size_t i = 0; i < sessions.size(); ++i) {  // taking turns spreads a disturbance over all of them
      const double begin = steady_seconds();
      sessions[i]->submit(frame, out)();
      times[i].push_back(1e3 * (steady_seconds() - begin));
    }
  }
  double best = std::numeric_limits<double>::infinity();
  for (auto& each : times) {
    std::sort(each.begin(), each.end());
    best = std::min(best, percentile(each, 50));
  }
  std::vector<std::vector<std::string>> rows = {
      {"variant", "engine", "precision", "median ms", "p95 ms", "fps", "time/best"}};
  nlohmann::json results = nlohmann::json::array();
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    const double median = percentile(times[i], 50), late = percentile(times[i], 95);
    const EngineInfo info = sessions[i]->info();
    rows.push_back({choices[i].variant, choices[i].backend, choices[i].precision, with_digits(median, 1),
                    with_digits(late, 1), with_digits(1000 / median, 1), with_digits(median / best, 2)});
    results.push_back({{"variant", choices[i].variant},
                       {"backend", choices[i].backend},
                       {"precision", choices[i].precision},
                       {"device", info.device},
                       {"threads", info.threads},
                       {"median_ms", median},
                       {"p95_ms", late},
                       {"fps", 1000 / median}});
  }
  const EngineInfo first = sessions[0]->info();
  print(options, bundle.manifest.name + ", " + shown(size) + ", " + std::to_string(times[0].size()) +
                     " rounds in turn, " + first.device + ", " +
                     (first.threads ? std::to_string(first.threads) : "default") + " threads");
  print(options, table(rows, 3));
  if (options.has("--json")) {
    write_json(options.text("--json"), dumped({{"bundle", bundle.manifest.name},
                                               {"width", size.width},
                                               {"height", size.height},
                                               {"results", results}}));
  }
  return kOk;
}

// --- doctor ----------------------------------------------------------------------------------------------------------

struct Finding {
  std::string what;
  bool good;
  std::string repair;
  bool optional;
};

std::vector<Finding> examine() {
  std::vector<Finding> findings = {
      {"genedge-run " GENEDGE_VERSION ", " + std::to_string(std::thread::hardware_concurrency()) + " cores", true, "",
       false},
      {"OpenCV " + cv::getVersionString(), true, "", false},
      {"video files: " + video_library(), true, "", false}};
  if (has_openvino()) {
    findings.push_back({"openvino " + openvino_version() + ": CPU, " + (has_bf16() ? "computes bf16" : "no bf16"),
                        true, "", false});
  } else {
    findings.push_back({"openvino: built without it (the fastest engine for CPUs)", false,
                        "pip install openvino, then build again", true});
  }
  if (has_tensorrt()) {
    const auto trouble = trouble_with_tensorrt();
    findings.push_back({"tensorrt " + tensorrt_version_text() + (trouble ? ": " + *trouble : ""), !trouble, "", true});
  } else {
    findings.push_back({"tensorrt: built without it (the engine for NVIDIA GPUs)", false,
                        "configure with -DTENSORRT_ROOT=/usr, then build again", true});
  }
  if (available_backends().empty()) {
    findings.push_back({"no inference engine at all", false, "build with OpenVINO or TensorRT", false});
  }
  std::vector<std::string> cameras;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator("/dev", failure)) {
    if (starts_with(entry.path().filename().string(), "video")) cameras.push_back(entry.path().string());
  }
  std::sort(cameras.begin(), cameras.end());
  findings.push_back({"cameras: " + (cameras.empty() ? "none" : joined(cameras)), !cameras.empty(), "", true});
  const char* display = std::getenv("WAYLAND_DISPLAY");
  if (display == nullptr) display = std::getenv("DISPLAY");
  findings.push_back({std::string("display: ") + (display ? display : "none (display:// will not work)"),
                      display != nullptr, "", true});
  return findings;
}

int doctor(const Options& options) {
  nlohmann::json json = nlohmann::json::array();
  bool well = true;
  for (const Finding& finding : examine()) {
    well = well && (finding.good || finding.optional);
    print(options, std::string(finding.good ? "ok  " : finding.optional ? "-   " : "MISS") + "  " + finding.what +
                       (finding.repair.empty() ? "" : "\n      -> " + finding.repair));
    json.push_back({{"what", finding.what},
                    {"good", finding.good},
                    {"repair", finding.repair},
                    {"optional", finding.optional}});
  }
  if (options.has("--json")) write_json(options.text("--json"), dumped(json));
  return well ? kOk : kFailed;
}

const Option kBundle = {"BUNDLE", "", "BUNDLE", "folder, or name in ./bundles and $GENEDGE_BUNDLES", true};

}  // namespace

Verb verify_verb() {
  return {"verify", "check on this device that a bundle still does what PyTorch did",
          std::vector<Option>{kBundle} + engine_options() + std::vector<Option>{json_option()}, verify};
}

Verb bench_verb() {
  const std::vector<Option> own = {
      kBundle,
      {"--size", "", "HxW", "frame size (default: the bundle's own, else 360x640)"},
      {"--rounds", "", "N", "timed frames of each variant (default: 20, or as many as two minutes hold)"}};
  return {"bench", "time a bundle's variants side by side, without video around them",
          own + engine_options() + std::vector<Option>{json_option()}, bench};
}

Verb doctor_verb() {
  return {"doctor", "what this program was built with, and what this machine has", {json_option()}, doctor};
}

}  // namespace genedge
