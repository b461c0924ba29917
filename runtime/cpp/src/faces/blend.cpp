#include "faces/blend.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <opencv2/imgproc.hpp>

#include "genedge/error.hpp"

namespace genedge::faces {
namespace {

constexpr double kGuard = 1.0;       // pixels by which the hard ellipse is larger than the region
constexpr int kFillSide = 48;        // longer side in pixels of the small picture in which a smooth fill is computed
constexpr double kColourless = 3.0;  // grey levels between the channels up to which a picture is black and white,
constexpr double kColoured = 9.0;    // and from which it has its colours
constexpr double kRingShare = 0.08;  // width of the ring that gives the colours, over the longer side of the window
constexpr int kCoarse = 4;           // pixels whose mean is one of the small picture that has the colours of regions
constexpr double kFloatReach = 4096;  // pixels of a half axis from which float would misplace the edge

int ring_width(int across, int down) {
  return std::max(3, static_cast<int>(std::nearbyint(kRingShare * std::min(400, std::max(across, down)))));
}

bool touch(const Window& one, const Window& other) {
  return one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
}

Window united(const Window& one, const Window& other) {
  return {std::min(one.left, other.left), std::min(one.top, other.top), std::max(one.right, other.right),
          std::max(one.bottom, other.bottom)};
}

// `make(distance)` for every pixel of `window`, the distance computed in `Number`.
template <typename Number, typename Value, typename Make>
cv::Mat each_pixel(const Box& region, const Window& window, int type, Make make) {
  const auto [x, y] = region.center();
  const auto [across, down] = half_axes(region);
  const auto squared = [](int first, double shift, double half) {
    const double value = (first + shift) / half;
    return static_cast<Number>(value * value);
  };
  std::vector<Number> columns(static_cast<std::size_t>(window.width()));
  for (int column = 0; column < window.width(); ++column) {
    columns[static_cast<std::size_t>(column)] = squared(window.left + column, 0.5 - x, across);
  }
  cv::Mat out(window.height(), window.width(), type);
  for (int row = 0; row < window.height(); ++row) {
    const Number high = squared(window.top + row, 0.5 - y, down);
    Value* line = out.ptr<Value>(row);
    for (int column = 0; column < window.width(); ++column) {
      line[column] = make(std::sqrt(high + columns[static_cast<std::size_t>(column)]));
    }
  }
  return out;
}

bool is_large(const Box& region) {
  const auto [across, down] = half_axes(region);
  return std::max(across, down) >= kFloatReach;
}

// scale * distance + shift, cut to 0..255.
template <typename Number>
cv::Mat ramp(const Box& region, const Window& window, double scale, double shift) {
  return each_pixel<Number, unsigned char>(
      region, window, CV_8UC1, [scale = static_cast<Number>(scale), shift = static_cast<Number>(shift)](Number far) {
        const Number value = far * scale + shift;
        return static_cast<unsigned char>(std::min<Number>(255, std::max<Number>(0, value)));
      });
}

cv::Mat ramp(const Box& region, const Window& window, double scale, double shift) {
  return is_large(region) ? ramp<double>(region, window, scale, shift) : ramp<float>(region, window, scale, shift);
}

// 1 where nothing is replaced, else 0.
cv::Mat free_of(const cv::Mat& mask) {
  cv::Mat free;
  cv::compare(mask, 0, free, cv::CMP_EQ);
  return free & 1;
}

cv::Vec3d mean_of(const cv::Mat& image, const cv::Mat& chosen) {
  if (cv::countNonZero(chosen) == 0) return kNeutral;
  const cv::Scalar mean = cv::mean(image, chosen);
  return {mean[0], mean[1], mean[2]};
}

cv::Vec3b rounded(const cv::Vec3d& colour) {
  cv::Vec3b result;
  for (int channel = 0; channel < 3; ++channel) {
    result[channel] = static_cast<unsigned char>(std::nearbyint(colour[channel]));
  }
  return result;
}

cv::Mat resized(const cv::Mat& image, cv::Size size, int how) {
  cv::Mat out;
  cv::resize(image, out, size, 0, 0, how);
  return out;
}

Group group_of(std::vector<int> members, const Window& window, int width, int height) {
  std::sort(members.begin(), members.end());
  const int edge = ring_width(window.width(), window.height());
  return {std::move(members), window,
          {std::max(0, window.left - edge), std::max(0, window.top - edge), std::min(width, window.right + edge),
           std::min(height, window.bottom + edge)}};
}

}  // namespace

cv::Mat distance(const Box& region, const Window& window) {
  if (!is_large(region)) return each_pixel<float, float>(region, window, CV_32FC1, [](float far) { return far; });
  // rounded up, so that nothing outside of the ellipse counts as inside
  return each_pixel<double, float>(region, window, CV_32FC1, [](double far) {
    const float value = static_cast<float>(far);
    return value < far ? std::nextafter(value, HUGE_VALF) : value;
  });
}

std::pair<double, double> half_axes(const Box& region) {
  return {std::max(0.0, region.width) / 2 + kGuard, std::max(0.0, region.height) / 2 + kGuard};
}

cv::Mat ellipse_mask(const Box& region, const Window& window) {
  const auto [across, down] = half_axes(region);
  const double slope = 255.0 * std::max(across, down) / feather_of(region);
  return ramp(region, window, -slope, 255.0 + slope);
}

cv::Mat inside_mask(const Box& region, const Window& window) { return ramp(region, window, -2550.0, 2550.0); }

Merged merge(const std::vector<Box>& regions, int width, int height) {
  struct Part {
    std::vector<int> members;
    Window window;
  };
  Merged merged{cv::Mat::zeros(height, width, CV_8UC1), {}};
  std::vector<Part> parts;
  for (std::size_t index = 0; index < regions.size(); ++index) {
    const Box& region = regions[index];
    if (!(std::isfinite(region.x) && std::isfinite(region.y) && std::isfinite(region.width) &&
          std::isfinite(region.height))) {
      throw Error("a region to be covered is not finite");
    }
    Part part{{static_cast<int>(index)}, changed_window(region, width, height)};
    if (part.window.empty()) continue;
    cv::Mat there = merged.mask(part.window.rect());
    cv::max(there, ellipse_mask(region, part.window), there);
    for (bool grown = true; grown;) {  // a window that grew may touch another group
      grown = false;
      const Window window = part.window;
      std::vector<Part> apart;
      for (Part& other : parts) {
        if (!touch(other.window, window)) {
          apart.push_back(std::move(other));
          continue;
        }
        part.members.insert(part.members.end(), other.members.begin(), other.members.end());
        part.window = united(part.window, other.window);
        grown = true;
      }
      parts = std::move(apart);
    }
    parts.push_back(std::move(part));
  }
  for (Part& part : parts) merged.groups.push_back(group_of(std::move(part.members), part.window, width, height));
  return merged;
}

double colour_share(double spread) { return std::clamp((spread - kColourless) / (kColoured - kColourless), 0.0, 1.0); }

cv::Mat solid_fill(const cv::Mat& image, const cv::Mat& mask, bool connected) {
  const cv::Mat free = free_of(mask);
  if (connected) {
    const cv::Vec3b colour = rounded(mean_of(image, free));
    return {image.size(), CV_8UC3, cv::Scalar(colour[0], colour[1], colour[2])};
  }
  const cv::Size size((mask.cols + kCoarse - 1) / kCoarse, (mask.rows + kCoarse - 1) / kCoarse);
  const auto reduced = [&](const cv::Mat& whole) {
    cv::Mat padded;  // so that each small pixel is of whole ones
    cv::copyMakeBorder(whole, padded, 0, kCoarse * size.height - mask.rows, 0, kCoarse * size.width - mask.cols,
                       cv::BORDER_REPLICATE);
    return resized(padded, size, cv::INTER_AREA);
  };
  const cv::Mat small = reduced(image);
  cv::Mat open, labels, stats, centroids;
  cv::compare(reduced(free * 255), 255, open, cv::CMP_EQ);
  const int count = cv::connectedComponentsWithStats(~open, labels, stats, centroids, 4, CV_16U);
  cv::Mat colours = cv::Mat::zeros(size, CV_8UC3);
  for (int label = 1; label < count; ++label) {
    const cv::Rect place(stats.at<int>(label, cv::CC_STAT_LEFT), stats.at<int>(label, cv::CC_STAT_TOP),
                         stats.at<int>(label, cv::CC_STAT_WIDTH), stats.at<int>(label, cv::CC_STAT_HEIGHT));
    const double ring = ring_width(kCoarse * place.width, kCoarse * place.height);
    const int edge = std::max(1, static_cast<int>(std::nearbyint(ring / kCoarse)));
    const cv::Rect around = cv::Rect(place.x - edge, place.y - edge, place.width + 2 * edge, place.height + 2 * edge) &
                            cv::Rect(cv::Point(0, 0), size);
    cv::Mat part, near;
    cv::compare(labels(around), label, part, cv::CMP_EQ);
    cv::dilate(part, near, cv::Mat::ones(2 * edge + 1, 2 * edge + 1, CV_8UC1));
    near &= open(around);
    const cv::Vec3b colour = rounded(mean_of(small(around), near));
    colours(around).setTo(cv::Scalar(colour[0], colour[1], colour[2]), part);
  }
  const cv::Mat large = resized(colours, size * kCoarse, cv::INTER_NEAREST);
  return large(cv::Rect(cv::Point(0, 0), mask.size()));
}

cv::Mat cells_fill(const cv::Mat& image, const Window& window, const Window& whole, int count, bool smooth) {
  const auto cells = [count](int part, int all) {
    return std::clamp(static_cast<int>(static_cast<double>(count) * part / std::max(1, all)), 1, part);
  };
  const cv::Size size(window.width(), window.height());
  cv::Mat small = resized(image(window.rect()),
                          cv::Size(cells(size.width, whole.width()), cells(size.height, whole.height())),
                          cv::INTER_AREA);
  if (smooth) cv::GaussianBlur(small, small, cv::Size(3, 3), 0.7, 0.7, cv::BORDER_REPLICATE);
  return resized(small, size, smooth ? cv::INTER_LINEAR : cv::INTER_NEAREST);
}

cv::Mat background_fill(const cv::Mat& image, const cv::Mat& mask) {
  const double scale = std::min(1.0, static_cast<double>(kFillSide) / std::max(mask.rows, mask.cols));
  const auto side = [scale](int pixels) { return std::max(1, static_cast<int>(std::nearbyint(pixels * scale))); };
  const cv::Size size(side(mask.cols), side(mask.rows));
  const cv::Mat free = free_of(mask);
  cv::Mat known = cv::Mat::zeros(image.size(), CV_8UC3);
  image.copyTo(known, free);
  cv::Mat colour, weight;
  resized(known, size, cv::INTER_AREA).convertTo(colour, CV_32F);
  resized(free * 255, size, cv::INTER_AREA).convertTo(weight, CV_32F);
  weight.forEach<float>([](float& value, const int*) { value /= 255.0f; });
  std::vector<std::pair<cv::Mat, cv::Mat>> levels = {{colour, weight}};
  while (std::max(weight.rows, weight.cols) > 1) {
    const cv::Size half((weight.cols + 1) / 2, (weight.rows + 1) / 2);
    colour = resized(colour, half, cv::INTER_AREA);
    weight = resized(weight, half, cv::INTER_AREA);
    for (int row = 0; row < half.height; ++row) {
      for (int column = 0; column < half.width; ++column) {
        // a coarse pixel of which a part is known counts as known
        float& share = weight.at<float>(row, column);
        const float gain = std::min(4.0f, 1.0f / std::max(share, 1e-6f));
        colour.at<cv::Vec3f>(row, column) *= gain;
        share *= gain;
      }
    }
    levels.emplace_back(colour, weight);
  }
  cv::Mat filled(1, 1, CV_32FC3, cv::Scalar(kNeutral[0], kNeutral[1], kNeutral[2]));
  for (auto level = levels.rbegin(); level != levels.rend(); ++level) {
    const cv::Mat up = resized(filled, level->second.size(), cv::INTER_LINEAR);
    filled = cv::Mat(level->second.size(), CV_32FC3);
    for (int row = 0; row < filled.rows; ++row) {
      for (int column = 0; column < filled.cols; ++column) {
        const float left = 1.0f - level->second.at<float>(row, column);
        const cv::Vec3f& here = level->first.at<cv::Vec3f>(row, column);
        const cv::Vec3f& from = up.at<cv::Vec3f>(row, column);
        filled.at<cv::Vec3f>(row, column) = {here[0] + left * from[0], here[1] + left * from[1],
                                             here[2] + left * from[2]};
      }
    }
  }
  cv::Mat small;
  filled.convertTo(small, CV_8U);
  return resized(small, mask.size(), cv::INTER_LINEAR);
}

cv::Mat mixed(const cv::Mat& below, const cv::Mat& above, const cv::Mat& alpha) {
  cv::Mat weight, rest, shown, left;
  cv::merge(std::vector<cv::Mat>{alpha, alpha, alpha}, weight);
  cv::bitwise_not(weight, rest);
  cv::multiply(above, weight, shown, 1.0 / 255);
  cv::multiply(below, rest, left, 1.0 / 255);
  return shown + left;
}

void blend(cv::Mat& image, const cv::Mat& fill, const cv::Mat& mask, const Group& group) {
  cv::Mat target = image(group.window.rect());
  mixed(target, fill, mask(group.window.rect())).copyTo(target);
}

}  // namespace genedge::faces
