#include "faces/match.h"

#include <algorithm>
#include <cmath>

#include <opencv2/imgproc.hpp>

namespace genedge::faces {
namespace {

constexpr int kSmallWidth = 320;        // pixels of the grey copies that faces are matched in
constexpr double kAlike = 0.6;          // normalised correlation from which a match is believed
constexpr int kLeastPatch = 6;          // pixels: less shows nothing that can be found again
constexpr double kMostPatch = 28;       // pixels: larger faces are matched in a copy of half the size, and so on
constexpr double kLeastContrast = 2.0;  // standard deviation in 8-bit steps: a flat patch is found everywhere
constexpr double kSearch = 2.4;         // sides of the search window over those of the box
constexpr int kMostHalvings = 4;

struct Piece {
  cv::Mat grey;
  int left;
  int top;
};

// To the nearest whole number, halves to the even one, within what an int holds.
int rounded(double value) { return static_cast<int>(std::clamp(std::nearbyint(value), -1e9, 1e9)); }

// The part of `grey` in `box`, which is in pixels of the full frame.
Piece cut(const cv::Mat& grey, const Box& box, double factor) {
  const int left = std::min(grey.cols, std::max(0, rounded(box.x * factor)));
  const int top = std::min(grey.rows, std::max(0, rounded(box.y * factor)));
  const int right = std::min(grey.cols, std::max(left, rounded((box.x + box.width) * factor)));
  const int bottom = std::min(grey.rows, std::max(top, rounded((box.y + box.height) * factor)));
  return {grey(cv::Rect(left, top, right - left, bottom - top)), left, top};
}

}  // namespace

SmallFrame::SmallFrame(const cv::Mat& image) {
  factor_ = std::min(1.0, static_cast<double>(kSmallWidth) / std::max(image.cols, image.rows));
  cv::Mat small = image;
  if (factor_ != 1.0) {
    const cv::Size size(std::max(1, rounded(image.cols * factor_)), std::max(1, rounded(image.rows * factor_)));
    cv::resize(image, small, size, 0, 0, cv::INTER_LINEAR);
  }
  cv::Mat grey;
  cv::cvtColor(small, grey, cv::COLOR_BGR2GRAY);
  levels_.push_back(grey);
}

const cv::Mat& SmallFrame::level(int number) {
  while (static_cast<int>(levels_.size()) <= number) {
    const cv::Mat& last = levels_.back();
    cv::Mat half;
    cv::resize(last, half, cv::Size(std::max(1, last.cols / 2), std::max(1, last.rows / 2)), 0, 0, cv::INTER_AREA);
    levels_.push_back(half);
  }
  return levels_[static_cast<std::size_t>(number)];
}

std::optional<Match> SmallFrame::locate(const Box& box, SmallFrame& other, const Box& around) {
  if (other.level(0).size() != level(0).size()) return std::nullopt;
  int number = 0;
  double factor = factor_;
  while (number < kMostHalvings && std::max(box.width, box.height) * factor > kMostPatch) {
    ++number;
    factor /= 2;
  }
  const Piece patch = cut(level(number), box, factor);
  const Piece window = cut(other.level(number), around.scaled(kSearch), factor);
  if (std::min(patch.grey.rows, patch.grey.cols) < kLeastPatch) return std::nullopt;
  if (patch.grey.rows > window.grey.rows || patch.grey.cols > window.grey.cols) return std::nullopt;
  cv::Scalar mean;
  cv::Scalar deviation;
  cv::meanStdDev(patch.grey, mean, deviation);
  if (deviation[0] < kLeastContrast) return std::nullopt;
  cv::Mat alike;
  cv::matchTemplate(window.grey, patch.grey, alike, cv::TM_CCOEFF_NORMED);
  double best = 0;
  cv::Point place;
  cv::minMaxLoc(alike, nullptr, &best, nullptr, &place);
  if (!(kAlike <= best && best <= 1.001)) return std::nullopt;  // also what is no number
  return Match{box.moved((window.left + place.x - patch.left) / factor, (window.top + place.y - patch.top) / factor),
               std::min(1.0, best)};
}

}  // namespace genedge::faces
