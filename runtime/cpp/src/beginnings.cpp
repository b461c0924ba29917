#include "beginnings.hpp"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>
#include <vector>

namespace genedge {
namespace {

// These constants, and what they were measured on, are explained in runtime/cuts.py.
const cv::Size kCells(32, 18);
constexpr double kSureCut = 0.55, kLikelyCut = 0.25, kSpike = 3.5, kLeast = 6.0, kNoise = 4.0;
constexpr std::size_t kBefore = 4;
constexpr double kGapSeconds = 0.5, kGapIntervals = 5;
constexpr std::size_t kUsualOf = 25, kSettled = 3;

/// Mean colours of the cells, of every eighth pixel or so.
cv::Mat cells_of(const cv::Mat& image) {
  cv::Mat small = image, cells, floats;
  if (image.cols > 8 * kCells.width && image.rows > 8 * kCells.height) {
    cv::resize(image, small, kCells * 8, 0, 0, cv::INTER_NEAREST);
  }
  cv::resize(small, cells, kCells, 0, 0, cv::INTER_AREA);
  cells.reshape(1).convertTo(floats, CV_32F);
  return floats;
}

double change_of(const cv::Mat& one, const cv::Mat& other) {
  const cv::Mat a = one - cv::mean(one)[0], b = other - cv::mean(other)[0];
  const double count = static_cast<double>(a.total()), noise = kNoise * kNoise;
  const double spread = (a.dot(a) / count + noise) * (b.dot(b) / count + noise);
  return 1.0 - (a.dot(b) / count + noise) / std::sqrt(spread);
}

}  // namespace

bool CutDetector::operator()(const cv::Mat& image) {
  const cv::Mat cells = cells_of(image), last = std::exchange(last_, cells);
  if (last.empty()) return false;
  const double change = change_of(last, cells);
  const bool standing_out =
      changes_.size() == kBefore && change >= kSpike * *std::max_element(changes_.begin(), changes_.end());
  changes_.push_back(change);
  if (changes_.size() > kBefore) changes_.pop_front();
  if (!(change >= kSureCut || (change >= kLikelyCut && standing_out))) return false;
  if (cv::norm(cells, last, cv::NORM_L1) / static_cast<double>(cells.total()) < kLeast) return false;
  changes_.clear();  // the new shot has a motion of its own
  return true;
}

bool GapDetector::operator()(double pts) {
  const auto last = std::exchange(last_, pts);
  if (!last) return false;
  const double interval = pts - *last;
  if (interval < 0) return true;
  const bool known = intervals_.size() >= kSettled;
  double usual = 0;
  if (known) {
    std::vector<double> ordered(intervals_.begin(), intervals_.end());
    std::sort(ordered.begin(), ordered.end());
    usual = (ordered[(ordered.size() - 1) / 2] + ordered[ordered.size() / 2]) / 2;
  }
  intervals_.push_back(interval);  // also a long one: the rate may have changed for good
  if (intervals_.size() > kUsualOf) intervals_.pop_front();
  return known && interval > std::max(kGapSeconds, kGapIntervals * usual);
}

bool Beginnings::operator()(const VideoFrame& frame) {
  const bool cut = at_cuts_ && is_cut_(frame.image);  // both see every frame
  const bool gap = is_gap_(static_cast<double>(frame.pts) * base_) || frame.gap;
  gaps += gap;
  cuts += cut && !gap;
  return cut || gap;
}

}  // namespace genedge
