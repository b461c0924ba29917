// A face that is known to be there: while the engines do not find it, nothing that they say is believed. As
// runtime/faces/canary.py.
#pragma once

#include <opencv2/core.hpp>

#include "genedge/faces/detect.hpp"

namespace genedge::faces {

inline constexpr double kCanaryEnough = 0.5;  // score

// A grey frame with the first face of the bank. Safe between threads.
class Canary {
 public:
  // For frames of `size`.
  explicit Canary(cv::Size size);

  // Whether `detector` finds the face.
  bool check(FaceDetector& detector) const { return score(detector) >= kCanaryEnough; }
  // The score, 0 to 1, that `detector` gives it; 0 where it does not find it.
  double score(FaceDetector& detector) const;

 private:
  cv::Mat frame_;
  Box box_;
};

}  // namespace genedge::faces
