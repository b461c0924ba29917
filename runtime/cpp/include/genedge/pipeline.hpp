// Reader | stages | writer, each in its own thread, with bounded queues. It ends in every case.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "genedge/session.hpp"
#include "genedge/video.hpp"

namespace genedge {

/// Milliseconds of one kind of step.
struct LatencySummary {
  std::int64_t count = 0;
  double mean_ms = 0, p50_ms = 0, p95_ms = 0, p99_ms = 0, max_ms = 0;
};

/// What a run did; the fields are those of Python's PipelineReport.
struct PipelineReport {
  std::int64_t frames = 0;  // written
  std::int64_t dropped = 0;
  double seconds = 0;
  double fps = 0;
  bool stopped = false;
  std::map<std::string, LatencySummary> latency;  // read, infer (infer 1, ...), write, frame, capture
  std::map<std::string, double> utilisation;
  std::int64_t peak_rss_bytes = 0;
  std::int64_t rss_end_bytes = 0;
};

struct PipelineOptions {
  int queue_size = 4;
  std::optional<std::int64_t> max_frames;
  bool newest = false;  // one frame at a time, for the shortest time from the source to the sink
  std::function<void(std::int64_t frames)> progress;
  /// Asked about every frame once, in order: whether it knows nothing of those before. Every stage is then reset.
  std::function<bool(const VideoFrame&)> begins;
};

/// Run every frame of `source` through `stages` in order and into `sink`, and finalise the sink.
///
/// `stop` may be set at any time, also by a signal handler: reading ends, what is in flight is written, and the sink
/// is aborted, which leaves a playable file. `report` is filled in every case. Throws the first error of source,
/// sessions or sink after the sink was finalised.
void run_pipeline(Source& source, const std::vector<Session*>& stages, Sink& sink, const PipelineOptions& options,
                  const std::atomic<int>& stop, PipelineReport& report);

std::int64_t peak_rss_bytes();
std::int64_t current_rss_bytes();

}  // namespace genedge
