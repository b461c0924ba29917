// Where a video begins anew: cuts, seeks and gaps. As runtime/cuts.py, which says where the numbers come from.
#pragma once

#include <deque>
#include <optional>

#include <opencv2/core.hpp>

#include "genedge/video.hpp"

namespace genedge {

/// Says of each frame of a video whether a hard cut lies in front of it. Frames may differ in size.
class CutDetector {
 public:
  /// Whether `image`, CV_8UC3 BGR, shows another shot than the last one. False for the first.
  bool operator()(const cv::Mat& image);

 private:
  cv::Mat last_;
  std::deque<double> changes_;
};

/// Says of each frame, by its time, whether something is missing in front of it: the time jumps or runs back.
class GapDetector {
 public:
  /// `pts`: seconds. False for the first frame.
  bool operator()(double pts);

 private:
  std::optional<double> last_;
  std::deque<double> intervals_;
};

/// Which frames of a video know nothing of those before.
class Beginnings {
 public:
  explicit Beginnings(Rational time_base) : time_base_(time_base) {}

  bool operator()(const VideoFrame& frame);
  int cuts() const { return cuts_; }
  int gaps() const { return gaps_; }

 private:
  Rational time_base_;
  int cuts_ = 0;
  int gaps_ = 0;
  CutDetector is_cut_;
  GapDetector is_gap_;
};

}  // namespace genedge
