#include "report.hpp"

#include "options.hpp"
#include "text.hpp"

namespace genedge {

nlohmann::json as_json(const PipelineReport& report) {
  nlohmann::json latency = nlohmann::json::object();
  for (const auto& [name, each] : report.latency) {
    latency[name] = {{"count", each.count},   {"mean_ms", each.mean_ms}, {"p50_ms", each.p50_ms},
                     {"p95_ms", each.p95_ms}, {"p99_ms", each.p99_ms},   {"max_ms", each.max_ms}};
  }
  return {{"frames", report.frames},
          {"dropped", report.dropped},
          {"seconds", report.seconds},
          {"fps", report.fps},
          {"stopped", report.stopped},
          {"latency", latency},
          {"utilisation", report.utilisation},
          {"peak_rss_bytes", report.peak_rss_bytes},
          {"rss_end_bytes", report.rss_end_bytes}};
}

nlohmann::json as_json(const SourceInfo& info) {
  nlohmann::json json = {{"uri", info.uri},          {"width", info.size.width}, {"height", info.size.height},
                         {"codec", info.codec},      {"rate", nullptr},          {"frame_count", nullptr},
                         {"rotation", info.rotation}, {"audio", info.audio}};
  if (info.rate) json["rate"] = info.rate->value();
  if (info.frame_count) json["frame_count"] = *info.frame_count;
  return json;
}

std::string dumped(const nlohmann::json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

void say_latency(const PipelineReport& report) {
  if (report.dropped && !report.frames) {
    say("warning: all " + std::to_string(report.dropped) +
        " frames were older than --max-latency-ms when their turn came");
  }
  const auto found = report.latency.find("capture");
  if (found == report.latency.end()) return;
  const LatencySummary& capture = found->second;
  say("from capture to output: p50 " + with_digits(capture.p50_ms, 0) + " ms, p95 " + with_digits(capture.p95_ms, 0) +
      " ms, p99 " + with_digits(capture.p99_ms, 0) + " ms; " + std::to_string(report.dropped) + " frames dropped");
}

std::string shown(cv::Size size) { return std::to_string(size.width) + "x" + std::to_string(size.height); }

}  // namespace genedge
