// Frames are cv::Mat CV_8UC3 in the order BGR, full range, rows without gaps.
#pragma once

#include <opencv2/core.hpp>

namespace genedge {

/// Which frame sizes a generator takes: at least `minimum` pixels a side, a multiple of `multiple`.
struct SizeRule {
  int minimum = 1;
  int multiple = 1;

  /// Smallest allowed side that holds `value` pixels.
  int padded(int value) const;
  /// Smallest allowed size that holds a frame of `size`.
  cv::Size padded(cv::Size size) const { return {padded(size.width), padded(size.height)}; }
  bool allows(cv::Size size) const { return padded(size) == size; }
};

/// Throws std::invalid_argument unless `frame` is CV_8UC3, not empty, and its rows have no gaps.
void check_frame(const cv::Mat& frame);

}  // namespace genedge
