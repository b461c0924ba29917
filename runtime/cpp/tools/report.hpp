// Reports as JSON, with the names that `python -m runtime --json` gives.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "genedge/pipeline.hpp"

namespace genedge {

nlohmann::json as_json(const PipelineReport& report);
nlohmann::json as_json(const SourceInfo& info);
/// As text; what is no UTF-8 is replaced.
std::string dumped(const nlohmann::json& json);
/// What a live run's frames took, and what it left out; nothing for files.
void say_latency(const PipelineReport& report);
/// `640x360`.
std::string shown(cv::Size size);

}  // namespace genedge
