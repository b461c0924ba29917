// Figures that compare frames, in the users' units: decibels, 8-bit steps, colour difference.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "genedge/manifest.hpp"

namespace genedge {

/// How far candidates are from their references; the fields are those of Python's ParityReport.
struct ParityReport {
  int frames = 0;
  double psnr_db = 0;  // over all frames together, 100 for identical ones
  double ssim = 0;     // mean over the frames
  double delta_e = 0;  // CIEDE2000, mean over the frames
  int max_abs = 0;     // 8-bit steps
  int p999_abs = 0;
  double changed = 0;  // share of the values that differ at all
  int worst_frame = 0;
  std::vector<std::string> failures;  // a sentence for each limit that is missed

  bool passed() const { return failures.empty(); }
};

/// Compare (reference, candidate) pairs of CV_8UC3 BGR frames. Throws std::invalid_argument for frames of different
/// sizes, or for none.
ParityReport compare(const std::vector<std::pair<cv::Mat, cv::Mat>>& pairs, const Limits& limits = {});

/// CIEDE2000 of two colours in CIE L*a*b*.
double delta_e_2000(const cv::Vec3d& first, const cv::Vec3d& second);

}  // namespace genedge
