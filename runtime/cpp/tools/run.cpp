// The verb `run`: a video through one or more bundles.

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "chain.hpp"
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

/// One run: frames through the pipeline, then what to say about it.
struct Job {
  const Options& options;
  Chain& chain;
  std::unique_ptr<Source> source;
  std::unique_ptr<Sink> sink;
  cv::Size size;  // of the frames that leave

  void open(const EngineOptions& engine) {
    const std::string output = options.text("--output");
    const SinkOptions wishes = sink_wishes();
    source = open_source(options.text("--input"), source_options_of(options));
    const SourceInfo& info = source->info();
    if (info.live) say(info.uri + ": " + shown(info.size) + "; the newest frame wins");
    check_sink(output, wishes.overwrite, &info);
    size = chain.open(info.size, info.live, engine);
    sink = open_sink(output, info, size, wishes);
  }

  SinkOptions sink_wishes() const {
    SinkOptions wishes = sink_options_of(options);
    wishes.audio = !options.has("--no-audio");
    return wishes;
  }

  int run() {
    std::optional<Beginnings> beginnings = chain.beginnings(source->info().time_base);
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
    PipelineReport report;
    std::string outcome = "failed", error;
    try {
      run_pipeline(*source, chain.sessions(), *sink, how, interrupts, report);
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
    json["stages"] = chain.stages_as_json();
    json["gaps"] = nlohmann::json::array();
    json["switched"] = nlohmann::json::array();
    json["resets"] = as_json(beginnings);
    json["warnings"] = warnings;
    write_json(options.text("--json"), dumped(json));
  }
};

int run(const Options& options) {
  check_sink(options.text("--output"), options.has("--overwrite"));
  Chain chain(options, true);
  const EngineOptions engine = engine_options_of(options, chain.choices());
  catch_signals();
  Job job{options, chain, nullptr, nullptr, {}};
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
      {"--passcode-file", "", "FILE", "passcode for a code of bits"},
      {"--no-audio", "", "", "leave the sound out (default: copied)"},
  };
  return {"run", "run a video through one or more bundles",
          own + chain_options() + engine_options() + video_options() + std::vector<Option>{json_option()}, run};
}

}  // namespace genedge
