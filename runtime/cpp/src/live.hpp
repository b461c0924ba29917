// The policies of live sources: the newest frame wins, and a file may stand in for a camera.
#pragma once

#include <memory>

#include "genedge/video.hpp"

namespace genedge {

double steady_seconds();

/// A thread reads `source` as fast as it gives, and keeps one frame for whoever asks. `max_latency`: seconds; a frame
/// that is older when it is asked for is dropped too, 0: none is. `at_once`: start reading now, else with the first
/// `read`, from whose frame on times count and drops are counted.
std::unique_ptr<Source> newest_source(std::unique_ptr<Source> source, double max_latency, bool at_once);

/// Gives the frames of a file when their time has come.
std::unique_ptr<Source> paced_source(std::unique_ptr<Source> source);

}  // namespace genedge
