#include "cuts.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <opencv2/imgproc.hpp>

namespace genedge {
namespace {

const cv::Size kCells(32, 18);
constexpr double kSureCut = 0.55;
constexpr double kLikelyCut = 0.25;  // where it stands out kSpike times: a cut between similar shots
constexpr double kSpike = 3.5;
constexpr std::size_t kBefore = 4;  // changes that it must stand out from
constexpr double kLeast = 6.0;      // 8-bit steps: what changes by less on average is no other shot
constexpr double kNoise = 4.0;      // 8-bit steps of contrast that all frames are taken to share
constexpr double kGapSeconds = 0.5;
constexpr double kGapIntervals = 5;  // usual times from frame to frame
constexpr std::size_t kUsualOf = 25;  // intervals whose median is the usual one
constexpr std::size_t kSettled = 3;   // intervals that must be known

/// Mean colours of kCells, of every eighth pixel or so, CV_32FC3.
cv::Mat cells_of(const cv::Mat& image) {
  cv::Mat small = image, cells, result;
  if (image.cols > 8 * kCells.width && image.rows > 8 * kCells.height) {
    cv::resize(image, small, kCells * 8, 0, 0, cv::INTER_NEAREST);
  }
  cv::resize(small, cells, kCells, 0, 0, cv::INTER_AREA);
  cells.convertTo(result, CV_32F);
  return result;
}

double mean_of_all(const cv::Mat& cells) {
  const cv::Scalar mean = cv::mean(cells);
  return (mean[0] + mean[1] + mean[2]) / 3;
}

/// One minus the correlation, from 0 (the same, also where it became lighter or darker) to 2.
double change_of(const cv::Mat& one, const cv::Mat& other) {
  const cv::Mat first = one - cv::Scalar::all(mean_of_all(one)), second = other - cv::Scalar::all(mean_of_all(other));
  const double spread = (mean_of_all(first.mul(first)) + kNoise * kNoise) *
                        (mean_of_all(second.mul(second)) + kNoise * kNoise);
  return 1.0 - (mean_of_all(first.mul(second)) + kNoise * kNoise) / std::sqrt(spread);
}

}  // namespace

bool CutDetector::operator()(const cv::Mat& image) {
  const cv::Mat cells = cells_of(image), last = last_;
  last_ = cells;
  if (last.empty()) return false;
  const double change = change_of(last, cells);
  const bool standing_out = changes_.size() == kBefore &&
                            change >= kSpike * *std::max_element(changes_.begin(), changes_.end());
  changes_.push_back(change);
  if (changes_.size() > kBefore) changes_.pop_front();
  if (!(change >= kSureCut || (change >= kLikelyCut && standing_out))) return false;
  cv::Mat difference;
  cv::absdiff(cells, last, difference);
  if (mean_of_all(difference) < kLeast) return false;
  changes_.clear();  // the new shot has a motion of its own
  return true;
}

bool GapDetector::operator()(double pts) {
  const std::optional<double> last = last_;
  last_ = pts;
  if (!last) return false;
  const double interval = pts - *last;
  if (interval < 0) return true;
  const bool known = intervals_.size() >= kSettled;
  double usual = 0;
  if (known) {
    std::vector<double> sorted(intervals_.begin(), intervals_.end());
    std::sort(sorted.begin(), sorted.end());
    const std::size_t half = sorted.size() / 2;
    usual = sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }
  intervals_.push_back(interval);  // also a long one: the rate may have changed for good
  if (intervals_.size() > kUsualOf) intervals_.pop_front();
  return known && interval > std::max(kGapSeconds, kGapIntervals * usual);
}

bool Beginnings::operator()(const VideoFrame& frame) {
  const bool cut = is_cut_(frame.image);  // both see every frame
  const double pts = static_cast<double>(frame.pts) * static_cast<double>(time_base_.num) /
                     static_cast<double>(time_base_.den);
  const bool gap = is_gap_(pts) || frame.gap;
  gaps_ += gap;
  cuts_ += cut && !gap;
  return cut || gap;
}

}  // namespace genedge
