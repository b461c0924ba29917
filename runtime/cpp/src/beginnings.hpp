// Where a video begins anew: cuts, seeks and gaps. A recurrent generator starts afresh there; see runtime/cuts.py.
#pragma once

#include <deque>
#include <optional>

#include "genedge/video.hpp"

namespace genedge {

/// Says of each frame whether a hard cut lies in front of it.
class CutDetector {
 public:
  bool operator()(const cv::Mat& image);

 private:
  cv::Mat last_;
  std::deque<double> changes_;
};

/// Says of each frame, by its time in seconds, whether something is missing in front of it.
class GapDetector {
 public:
  bool operator()(double pts);

 private:
  std::optional<double> last_;
  std::deque<double> intervals_;
};

/// Which frames of a video know nothing of those before, and how many there were.
class Beginnings {
 public:
  Beginnings(bool at_cuts, Rational time_base) : at_cuts_(at_cuts), base_(time_base.value()) {}
  bool operator()(const VideoFrame& frame);

  int cuts = 0, gaps = 0;

 private:
  bool at_cuts_;
  double base_;
  CutDetector is_cut_;
  GapDetector is_gap_;
};

}  // namespace genedge
