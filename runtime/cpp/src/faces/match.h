// Finding a face again by its picture, where the detector has missed it: runtime/faces/match.py.
#pragma once

#include <optional>
#include <vector>

#include <opencv2/core.hpp>

#include "genedge/faces/types.hpp"

namespace genedge::faces {

// Where a face was found by its picture, and how alike, 0 to 1.
struct Match {
  Box box;
  double alike = 1.0;
};

// A grey copy of a frame, at most 320 pixels wide, in which a face can be found again.
class SmallFrame {
 public:
  // `image`: CV_8UC3 BGR, which is not kept.
  explicit SmallFrame(const cv::Mat& image);

  // Where what `box` shows in this frame is in `other`, searched near `around`. Nothing where it is too little alike,
  // or where there is too little to compare.
  std::optional<Match> locate(const Box& box, SmallFrame& other, const Box& around);

 private:
  // The copy, halved `number` times.
  const cv::Mat& level(int number);

  double factor_ = 1.0;
  std::vector<cv::Mat> levels_;
};

}  // namespace genedge::faces
