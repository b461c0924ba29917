// The verb `run`: a video through one or more bundles.

#include <algorithm>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "beginnings.hpp"
#include "codes_of_run.hpp"
#include "genedge/error.hpp"
#include "genedge/pipeline.hpp"
#include "options.hpp"
#include "report.hpp"
#include "signals.hpp"
#include "stats.hpp"
#include "text.hpp"
#include "watchdog.hpp"

namespace genedge {

std::atomic<int> interrupts{0};

namespace {

constexpr double kMib = 1 << 20;

void on_signal(int) {
  if (++interrupts > 2) _exit(kInterrupted);
}

/// The image that each stage gives, "" for its main one.
std::vector<std::string> images_of(const std::vector<std::string>& wishes, const std::vector<Bundle>& bundles) {
  std::vector<std::string> images(bundles.size());
  for (const auto& wish : wishes) {
    const auto colon = wish.rfind(':');
    const std::string stage = colon == std::string::npos ? "" : wish.substr(0, colon);
    const std::string name = colon == std::string::npos ? wish : wish.substr(colon + 1);
    const bool numbered = all_digits(stage) && stage.size() < 10;
    const std::size_t number = numbered ? std::stoul(stage) : bundles.size();
    if ((colon != std::string::npos && !numbered) || number < 1 || number > bundles.size()) {
      throw UsageError("--image " + cut(wish) + ": the stage before the colon is a number from 1 to " +
                       std::to_string(bundles.size()));
    }
    if (!images[number - 1].empty()) {
      throw UsageError("--image " + wish + ": stage " + std::to_string(number) +
                       " has its image already, and a stage gives one");
    }
    images[number - 1] = bundles[number - 1].manifest.image(name).name;
  }
  return images;
}

CodesOfRun codes_of(const Options& options, const std::vector<Bundle>& bundles) {
  CodesOfRun codes(bundles);
  if ((options.has("--code") || options.has("--passcode-file")) && codes.empty()) {
    std::vector<std::string> names;
    for (const Bundle& bundle : bundles) names.push_back(bundle.manifest.name);
    throw UsageError(joined(names) + " takes no code: leave out " +
                     (options.has("--code") ? "--code" : "--passcode-file"));
  }
  for (const auto& assignment : options.all("--code")) codes.apply(assignment);
  if (options.has("--passcode-file")) codes.apply_passcode(read_passcode(options.text("--passcode-file")));
  return codes;
}

/// One run: frames through the pipeline, then what to say about it.
struct Job {
  const Options& options;
  std::vector<Bundle> bundles;
  std::vector<Choice> choices;
  std::vector<std::string> images;
  CodesOfRun codes;
  std::unique_ptr<Source> source;
  std::vector<std::unique_ptr<Session>> stages;
  std::unique_ptr<Sink> sink;
  cv::Size size;  // of the frames that leave

  void open(const EngineOptions& engine) {
    const std::string output = options.text("--output");
    const SinkOptions wishes = sink_wishes();
    source = open_source(options.text("--input"), source_options_of(options));
    const SourceInfo& info = source->info();
    if (info.live) say(info.uri + ": " + shown(info.size) + "; the newest frame wins");
    check_sink(output, wishes.overwrite, &info);
    size = info.size;
    for (std::size_t i = 0; i < bundles.size(); ++i) {
      SessionOptions session;
      session.engine = engine;
      session.live = info.live;
      session.image = images[i];
      stages.push_back(open_stage(bundles[i], choices[i], size, options.count("--tile").value_or(-1), session));
      stages.back()->warm_up(size);
      codes.attach(i, *stages.back());
      say(bundles[i].manifest.name + ": " + choices[i].reason + "; " + shown(size) + " on " +
          stages.back()->info().device);
      size *= stages.back()->scale();
    }
    sink = open_sink(output, info, size, wishes);
  }

  SinkOptions sink_wishes() const {
    SinkOptions wishes = sink_options_of(options);
    wishes.audio = !options.has("--no-audio");
    return wishes;
  }

  int run() {
    const bool recurrent = std::any_of(bundles.begin(), bundles.end(), [](const Bundle& bundle) {
      return !bundle.manifest.inputs_of("state").empty();
    });
    std::optional<Beginnings> beginnings;  // nobody is reset where there is no state, so nobody needs to look
    if (recurrent) beginnings.emplace(!options.has("--no-cut-reset"), source->info().time_base);
    PipelineOptions how;
    auto total = source->info().frame_count;
    if (const auto most = options.count("--max-frames")) {
      how.max_frames = *most;
      total = std::min<std::int64_t>(total.value_or(*most), *most);
    }
    Progress progress(total, options.has("--quiet"));
    how.newest = source->info().live;
    Watchdog watchdog;
    how.progress = [&](std::int64_t frames) {
      progress.update(frames);
      watchdog.frame();
    };
    if (beginnings) how.begins = std::ref(*beginnings);
    std::vector<Session*> sessions;
    for (const auto& stage : stages) sessions.push_back(stage.get());
    PipelineReport report;
    std::string outcome = "failed", error;
    try {
      run_pipeline(*source, sessions, *sink, how, interrupts, report);
      outcome = interrupts ? "interrupted" : "complete";
    } catch (const std::exception& problem) {
      error = problem.what();
      progress.close();
      tell(report, outcome, error, beginnings);
      throw;
    }
    progress.close();
    tell(report, outcome, error, beginnings);
    if (outcome == "interrupted") {
      say("interrupted");
      return kInterrupted;
    }
    return kOk;
  }

  void tell(const PipelineReport& report, const std::string& outcome, const std::string& error,
            const std::optional<Beginnings>& beginnings) const {
    std::vector<std::string> warnings = source->warnings();
    warnings.insert(warnings.end(), sink->warnings().begin(), sink->warnings().end());
    for (const auto& warning : warnings) say("warning: " + printable(warning));
    if (sink->frames_written()) {
      say(options.text("--output") + ": " + std::to_string(sink->frames_written()) + " frames of " + shown(size) +
          ", " + with_digits(report.fps, 1) + " fps, peak memory " +
          with_digits(static_cast<double>(report.peak_rss_bytes) / kMib, 0) + " MiB");
    }
    say_latency(report);
    if (!options.has("--json")) return;
    nlohmann::json json = as_json(report);
    const SourceInfo& info = source->info();
    json["outcome"] = outcome;
    json["error"] = error.empty() ? nlohmann::json() : nlohmann::json(error);
    json["input"] = as_json(info);
    json["output"] = {{"uri", options.text("--output")}, {"width", size.width}, {"height", size.height}};
    json["stages"] = nlohmann::json::array();
    for (std::size_t i = 0; i < stages.size(); ++i) {
      const EngineInfo engine = stages[i]->info();
      const Choice& choice = choices[i];
      json["stages"].push_back({{"bundle", bundles[i].manifest.name},
                                {"backend", choice.backend},
                                {"precision", choice.precision},
                                {"variant", choice.variant},
                                {"reason", choice.reason},
                                {"device", engine.device},
                                {"threads", engine.threads},
                                {"in_flight", stages[i]->in_flight()},
                                {"image", bundles[i].manifest.image(images[i]).name},
                                {"codes", codes.said(i)}});
    }
    json["gaps"] = nlohmann::json::array();
    json["switched"] = nlohmann::json::array();
    json["resets"] = nullptr;
    if (beginnings) json["resets"] = {{"cuts", beginnings->cuts}, {"gaps", beginnings->gaps}};
    json["warnings"] = warnings;
    write_json(options.text("--json"), dumped(json));
  }
};

int run(const Options& options) {
  check_sink(options.text("--output"), options.has("--overwrite"));
  std::vector<Bundle> bundles;
  std::vector<Choice> choices;
  for (const auto& place : options.all("--bundle")) bundles.push_back(open_bundle(place));
  const auto images = images_of(options.all("--image"), bundles);
  for (const Bundle& bundle : bundles) {
    choices.push_back(choose(bundle, options.text("--backend", "auto"), options.text("--precision", "auto")));
  }
  const EngineOptions engine = engine_options_of(options, choices);
  CodesOfRun codes = codes_of(options, bundles);
  catch_signals();
  Job job{options, bundles, choices, images, std::move(codes), nullptr, {}, nullptr, {}};
  job.open(engine);
  return job.run();
}

}  // namespace

void catch_signals() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}

Verb run_verb() {
  const std::vector<Option> own = {
      {"--bundle", "-b", "BUNDLE", "folder, or name in ./bundles and $GENEDGE_BUNDLES; several are stages", true, true},
      {"--input", "-i", "INPUT",
       "clip.mp4, folder/, frames_%06d.png, photo.png, 0, /dev/video0, rtsp://…, http://…, csi://0, gst:PIPELINE, -",
       true},
      {"--output", "-o", "OUTPUT",
       "out.mp4 (.mkv, .mov, .webm), frames_%06d.png, photo.png, display://, gst:PIPELINE, null://", true},
      {"--tile", "", "N", "side of the tiles in pixels, 0 for whole frames (default: whole frames up to 1920x1088)"},
      {"--code", "", "NAME=VALUE", "code of a conditional generator; NAME may be BUNDLE.NAME or STAGE.NAME", false,
       true},
      {"--passcode-file", "", "FILE", "passcode for a code of bits"},
      {"--image", "", "[STAGE:]NAME", "which image of a bundle that gives several", false, true},
      {"--no-cut-reset", "", "", "let a recurrent bundle keep its state across cuts"},
      {"--no-audio", "", "", "leave the sound out (default: copied)"},
  };
  return {"run", "run a video through one or more bundles",
          own + engine_options() + video_options() + std::vector<Option>{json_option()}, run};
}

}  // namespace genedge
