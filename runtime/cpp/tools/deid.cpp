// The verb `deid`: every face in a video or picture replaced. As runtime/faces/cli.py.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <optional>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "chain.hpp"
#include "faces/canary.h"
#include "faces/generator.h"
#include "faces/keys.h"
#include "genedge/error.hpp"
#include "genedge/faces/deid.hpp"
#include "genedge/pipeline.hpp"
#include "options.hpp"
#include "report.hpp"
#include "signals.hpp"
#include "stats.hpp"
#include "text.hpp"
#include "video_files.hpp"

namespace genedge {
namespace {

namespace fs = std::filesystem;

constexpr int kLookahead = 12;  // frames, of files: 0.4 s at 30 frames a second
constexpr const char* kPreset = "veryfast";  // light is for frames that a net has smoothed
constexpr double kPictureLow = 0.25;
constexpr double kHigh = 0.6;   // score that permits drawing a face
constexpr std::size_t kMostPasscode = 4096;  // bytes
constexpr const char* kBlurWarning =
    "A blurred face can be recognised again by software that was trained on blurred faces: prefer solid.";

/// The files that are written beside the output must not be each other, or the input.
void check_beside(const Options& options) {
  const auto whole = [](const std::string& path) { return fs::absolute(path).lexically_normal(); };
  std::vector<std::string> taken = {"--output", "--input"};
  for (const char* name : {"--json", "--dump-raw"}) {
    const std::string path = options.text(name);
    if (path.empty() || path == "-") continue;
    if (!fs::is_directory(whole(path).parent_path())) {
      const std::string folder = fs::path(path).parent_path().string();
      throw UsageError("the folder " + folder + " does not exist: make it first (mkdir -p " + folder + ")");
    }
    for (const std::string& other : taken) {
      if (whole(path) != whole(options.text(other))) continue;
      throw UsageError(std::string(name) + " and " + other + " are the same file: give each its own name");
    }
    taken.push_back(name);
  }
}

/// The passcode from --passcode-file, else from an environment variable; empty where there is none.
std::string passcode_of(const Options& options) {
  if (options.has("--passcode-file")) {
    const std::string path = options.text("--passcode-file"), passcode = read_passcode(path);
    if ((fs::status(path).permissions() & fs::perms::others_read) != fs::perms::none) {
      say("warning: everybody on this machine can read " + path + ": chmod 600 " + path);
    }
    return passcode;
  }
  const std::string name = options.text("--passcode-env", "GENEDGE_PASSCODE");
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) {
    if (options.has("--passcode-env")) throw UsageError("the environment variable " + name + " is not set");
    return "";
  }
  std::string passcode = value;
  passcode.erase(passcode.find_last_not_of("\r\n") + 1);
  if (passcode.empty()) throw UsageError("$" + name + ": holds no passcode");
  if (passcode.size() > kMostPasscode) {
    throw UsageError("$" + name + ": more than " + std::to_string(kMostPasscode) + " bytes");
  }
  return passcode;
}

/// A crash must not leave raw frames on the disk.
void no_core_dumps() {
  rlimit limit{};
  if (getrlimit(RLIMIT_CORE, &limit) != 0) return;
  limit.rlim_cur = 0;
  setrlimit(RLIMIT_CORE, &limit);
}

std::string method_of(const Options& options) {
  const std::string method = options.text("--method", "average");
  const std::vector<std::string> known(std::begin(faces::kMethods), std::end(faces::kMethods));
  if (std::find(known.begin(), known.end(), method) == known.end()) {
    throw UsageError("argument --method: invalid choice: " + in_quotes(method) + " (choose from " + joined(known) +
                     ")");
  }
  return method;
}

faces::DetectorOptions detector_options_of(const Options& options) {
  const std::string backend = options.text("--backend", "auto");
  faces::DetectorOptions wishes;
  wishes.place = options.text("--detector");
  wishes.low = options.number("--thresh", 0.05, 0.95, "score");
  wishes.backend = backend == "openvino" ? backend : "auto";
  wishes.threads = options.count("--threads").value_or(0);
  return wishes;
}

/// Throws UsageError where the test face would be found, but not at --thresh: all frames would be covered whole.
void check_threshold(faces::FaceDetector& detector, faces::DetectorOptions wishes, cv::Size size) {
  if (detector.low() <= faces::kCanaryEnough) return;
  const faces::Canary canary(size);
  if (canary.check(detector)) return;
  wishes.low = faces::kCanaryEnough;
  const double score = canary.score(*faces::open_detector(wishes));
  if (score <= 0) return;
  throw UsageError("--thresh " + general(detector.low()) +
                   " is more than the score of the face by which this detector is watched: give at most " +
                   with_digits(std::floor(100 * score) / 100, 2));
}

nlohmann::json as_json(const faces::GuardSettings& guard) {
  return {{"lookahead", guard.lookahead}, {"hold", guard.hold}, {"grow", guard.grow},     {"low", guard.low},
          {"high", guard.high},           {"across", guard.across}, {"down", guard.down},
          {"smallest_sure", guard.smallest_sure}};
}

nlohmann::json as_json(const faces::TrackSummary& track) {
  return {{"track", track.track},   {"first", track.first},   {"last", track.last},
          {"seen", track.seen},     {"held", track.held},     {"filled", track.filled},
          {"interpolated", track.interpolated}, {"best_score", track.best_score}, {"uncertain", track.uncertain}};
}

nlohmann::json as_json(const faces::Tally& tally) {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [name, count] : tally) json[name] = count;
  return json;
}

nlohmann::json as_json(const faces::DeidCounts& counts) {
  nlohmann::json json = {{"frames", counts.frames},
                         {"faces", counts.faces},
                         {"methods", as_json(counts.methods)},
                         {"fallbacks", as_json(counts.fallbacks)},
                         {"covered_whole", counts.covered_whole_frames()},
                         {"covered_whole_reasons", as_json(counts.covered_whole)},
                         {"covered_whole_frames", nlohmann::json::array()},
                         {"cuts", counts.cuts},
                         {"canaries", counts.canaries},
                         {"canaries_missed", counts.canaries_missed},
                         {"rechecks", counts.rechecks}};
  for (int kind = 0; kind < faces::kCoverKinds; ++kind) {
    json[faces::name_of(static_cast<faces::CoverKind>(kind))] = counts.kinds[static_cast<std::size_t>(kind)];
  }
  for (const auto& [first, last] : counts.whole_frames) json["covered_whole_frames"].push_back({first, last});
  return json;
}

/// One run: covered frames through the pipeline, then what to say about it.
struct Job {
  const Options& options;
  const std::string method;
  const faces::GuardSettings guard;
  std::unique_ptr<faces::DeidentifiedSource> source;
  std::shared_ptr<faces::FaceDetector> detector;
  const Chain& chain;
  std::unique_ptr<Sink> sink;

  int run() {
    PipelineOptions how;
    auto total = source->info().frame_count;
    if (const auto most = options.count("--max-frames")) {
      how.max_frames = *most;
      total = std::min<std::int64_t>(total.value_or(*most), *most);
    }
    Progress progress(total, options.has("--quiet"));
    how.newest = source->info().live;
    how.progress = [&](std::int64_t frames) { progress.update(frames); };
    std::optional<Beginnings> beginnings = chain.beginnings(source->info().time_base);
    if (beginnings) how.begins = std::ref(*beginnings);
    PipelineReport report;
    try {
      run_pipeline(*source, chain.sessions(), *sink, how, interrupts, report);
    } catch (const std::exception& problem) {
      progress.close();
      tell(report, "failed", problem.what(), beginnings);
      throw;
    }
    progress.close();
    tell(report, interrupts ? "interrupted" : "complete", "", beginnings);
    if (interrupts) {
      say("interrupted");
      return kInterrupted;
    }
    return source->counts().covered_whole_frames() != 0 ? kNotMet : kOk;
  }

  void tell(const PipelineReport& report, const std::string& outcome, const std::string& error,
            const std::optional<Beginnings>& beginnings) const {
    const faces::DeidCounts& counts = source->counts();
    const std::vector<faces::TrackSummary> tracks = source->guard().tracks();
    std::vector<std::string> warnings = source->warnings();
    warnings.insert(warnings.end(), sink->warnings().begin(), sink->warnings().end());
    for (const auto& warning : warnings) say("warning: " + printable(warning));
    const auto kind = [&](faces::CoverKind each) {
      return std::to_string(counts.kinds[static_cast<std::size_t>(each)]) + " " + faces::name_of(each);
    };
    if (sink->frames_written()) {
      int fallbacks = 0;
      for (const auto& entry : counts.fallbacks) fallbacks += entry.second;
      std::string place = options.text("--output");
      if (outcome != "complete" && fs::exists(place + kPartial)) place += kPartial;
      say(place + ": " + std::to_string(sink->frames_written()) + " frames, " +
          with_digits(report.fps, 1) + " fps; " + std::to_string(tracks.size()) + " tracks, " +
          std::to_string(counts.faces) + " faces replaced (" + kind(faces::CoverKind::held) + ", " +
          kind(faces::CoverKind::filled) + ", " + kind(faces::CoverKind::interpolated) + "), " +
          std::to_string(fallbacks) + " by solid instead");
    }
    say_latency(report);
    const auto uncertain = std::count_if(tracks.begin(), tracks.end(), [](const auto& track) {
      return track.uncertain;
    });
    if (uncertain != 0) say(std::to_string(uncertain) + " tracks are not certain: --json FILE names them");
    if (!counts.covered_whole.empty()) {
      std::vector<std::string> reasons;
      for (const auto& [reason, count] : counts.covered_whole) {
        reasons.push_back(std::to_string(count) + " (" + reason + ")");
      }
      say("error: frames covered whole: " + joined(reasons));
    }
    if (!options.has("--json")) return;
    nlohmann::json json = genedge::as_json(report);
    json.update(as_json(counts));
    for (const char* name : {"stopped", "utilisation", "rss_end_bytes"}) json.erase(name);
    const SourceInfo& info = source->info();
    json["outcome"] = outcome;
    json["error"] = error.empty() ? nlohmann::json() : nlohmann::json(error);
    json["mode"] = "irreversible";
    json["method"] = method;
    json["input"] = {{"uri", info.uri}, {"width", info.size.width}, {"height", info.size.height},
                     {"frame_count", nullptr}};
    if (info.frame_count) json["input"]["frame_count"] = *info.frame_count;
    json["output"] = options.text("--output");
    json["audio_kept"] = !info.audio.empty() && options.has("--keep-audio");
    json["detector"] = {{"name", detector->name()},
                        {"sha256", detector->digest()},
                        {"description", detector->description()}};
    json["thresholds"] = {{"low", guard.low}, {"high", guard.high}};
    json["guard"] = as_json(guard);
    json["tracks"] = nlohmann::json::array();
    for (const auto& track : tracks) json["tracks"].push_back(as_json(track));
    json["gaps"] = nlohmann::json::array();
    json["stages"] = nlohmann::json::array();
    for (const Session* stage : chain.sessions()) json["stages"].push_back(stage->info().backend);
    json["codes"] = chain.codes_as_json();
    json["resets"] = as_json(beginnings);
    json["adaptive"] = nullptr;
    json["output_dropped"] = 0;
    json["output_gaps"] = nlohmann::json::array();
    json["warnings"] = warnings;
    write_json(options.text("--json"), dumped(json));
  }
};

int deid(const Options& options) {
  const std::string output = options.text("--output"), method = method_of(options);
  SinkOptions wishes = sink_options_of(options, kPreset);
  wishes.audio = options.has("--keep-audio");
  wishes.keep_partial = true;
  check_sink(output, wishes.overwrite);
  check_beside(options);
  const std::string passcode = passcode_of(options);
  faces::DetectorOptions detecting = detector_options_of(options);
  faces::GuardSettings guard;
  const double scale = options.number("--mask-scale", 1.2, 4.0, "factor").value_or(1.6);
  guard.hold = options.number("--hold", 0.1, 600, "time in seconds").value_or(guard.hold);
  guard.across = scale;
  guard.down = scale * 1.8 / 1.6;
  faces::DeidSettings settings;
  settings.timeout = options.number("--timeout", 0.1, 600, "time in seconds").value_or(settings.timeout);
  settings.recheck = !options.has("--no-recheck");
  if (!options.has("--bundle")) {
    for (const Option& option : chain_options()) {
      if (!options.has(option.name)) continue;
      throw UsageError(option.name + " is for a bundle behind: add -b BUNDLE, or leave it out");
    }
  }
  Chain chain(options, false);  // the passcode is for the faces
  std::optional<Bundle> generator;
  Choice generating;
  std::vector<Choice> used = chain.choices();
  if (method == "generator") {
    generator = open_bundle(options.text("--generator", "face-deid"));
    generating = choose(*generator, options.text("--backend", "auto"), options.text("--precision", "auto"));
    used.push_back(generating);
  }
  const EngineOptions engine = engine_options_of(options, used);
  no_core_dumps();
  catch_signals();
  std::unique_ptr<Source> raw = open_source(options.text("--input"), source_options_of(options));
  const SourceInfo info = raw->info();
  check_sink(output, wishes.overwrite, &info);
  guard.lookahead = options.count("--lookahead").value_or(info.live ? 0 : kLookahead);
  // where frames wait anyway, those that come are searched while the check looks at those that go
  detecting.streams = guard.lookahead > 0 && settings.recheck ? 2 : 1;
  // in a picture nothing before and after makes up for a face that is missed
  if (!detecting.low && info.frame_count == 1) detecting.low = kPictureLow;
  std::shared_ptr<faces::FaceDetector> detector = faces::open_detector(detecting);
  check_threshold(*detector, detecting, info.size);
  guard.low = detector->low();
  guard.high = std::max(kHigh, guard.low);
  settings.guard = guard;
  std::shared_ptr<faces::FaceDetector> checker = detector;
  if (detecting.streams > 1) checker = detector->twin();
  detector->prepare(info.size);
  const auto keys = passcode.empty() ? faces::RecordingKeys::random()
                                     : faces::RecordingKeys::from_passcode(
                                           passcode, faces::recording_of(options.text("--input"), info.live));
  std::unique_ptr<faces::Painter> painter;
  if (generator) {
    SessionOptions session;
    session.engine = engine;
    painter = faces::make_generator_painter(open_session(*generator, generating, session));
  }
  Job job{options, method, guard,
          std::make_unique<faces::DeidentifiedSource>(std::move(raw), detector,
                                                      faces::make_method(method, keys, std::move(painter)), settings,
                                                      checker),
          detector, chain, nullptr};
  say(detector->description() + "; " + method + "; " + shown(info.size) + ", look-ahead " +
      std::to_string(guard.lookahead) + " frames");
  if (guard.lookahead == 0) {
    say("without look-ahead a face is covered from the frame in which it is first found, not before");
  }
  if (method == "blur") say(std::string("warning: ") + kBlurWarning);
  if (!info.audio.empty() && !wishes.audio) {
    say("the sound is left out, because a voice identifies: --keep-audio keeps it");
  }
  const cv::Size size = chain.open(info.size, info.live, engine);
  job.sink = open_sink(output, info, size, wishes);
  return job.run();
}

}  // namespace

Verb deid_verb() {
  const std::vector<Option> own = {
      {"--input", "-i", "INPUT", "as for run", true},
      {"--output", "-o", "OUTPUT", "as for run", true},
      {"--method", "", "NAME", "put in place of a face: average, generator, solid, mosaic or blur (default: average)"},
      {"--bundle", "-b", "BUNDLE", "run the covered frames through this bundle too; several are stages in order", false,
       true},
      {"--generator", "", "BUNDLE", "of --method generator (default: face-deid)"},
      {"--passcode-file", "", "FILE", "passcode that chooses the faces"},
      {"--passcode-env", "", "NAME", "environment variable with the passcode (default: GENEDGE_PASSCODE)"},
      {"--detector", "", "FILE", "bundle or YuNet .onnx (default: $GENEDGE_FACE_DETECTOR, YuNet, own)"},
      {"--thresh", "", "S", "score that covers (default: 0.25, of the own detector in videos 0.3)"},
      {"--mask-scale", "", "F", "width over that of the face (default: 1.6)"},
      {"--lookahead", "", "N", "frames that wait for later sights (default: 12, live: 0)"},
      {"--hold", "", "S", "seconds that a lost face stays covered (default: 0.8)"},
      {"--timeout", "", "S", "for the engines, in seconds (default: 10)"},
      {"--no-recheck", "", "", "do not search the covered frames again (faster)"},
      {"--keep-audio", "", "", "keep the sound (default: dropped, a voice identifies)"},
  };
  return {"deid",
          "replace every face in a video or picture; a frame that cannot be judged is covered whole (exit code 3)",
          own + chain_options() + engine_options() + video_options(kPreset) + std::vector<Option>{json_option()}, deid};
}

}  // namespace genedge
