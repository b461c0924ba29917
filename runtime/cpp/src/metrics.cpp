#include "genedge/metrics.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <opencv2/imgproc.hpp>
#include <stdexcept>

#include "text.hpp"

namespace genedge {
namespace {

constexpr double kMaxPsnrDb = 100.0;  // stands for "identical", which has no finite value
constexpr double kPi = 3.14159265358979323846;

double decibels(double mean_square) {
  return std::min(kMaxPsnrDb, 10 * std::log10(255.0 * 255.0 / std::max(mean_square, 1e-12)));
}

/// Luma of BT.601 in 16..235, not rounded.
cv::Mat luma(const cv::Mat& frame) {
  cv::Mat floats, result;
  frame.convertTo(floats, CV_64F);
  cv::transform(floats, result, cv::Matx14d(24.966 / 255, 128.553 / 255, 65.481 / 255, 16.0));
  return result;
}

cv::Mat smooth(const cv::Mat& plane) {
  if (std::min(plane.rows, plane.cols) < 11) return cv::Mat(1, 1, CV_64F, cv::mean(plane));
  cv::Mat blurred;
  cv::GaussianBlur(plane, blurred, {11, 11}, 1.5, 0, cv::BORDER_REFLECT);
  return blurred(cv::Rect(5, 5, plane.cols - 10, plane.rows - 10)).clone();
}

/// Structural similarity of the luma, Gaussian window of 11 pixels with sigma 1.5 (Wang et al., IEEE TIP 2004).
double ssim(const cv::Mat& reference, const cv::Mat& candidate) {
  const cv::Mat first = luma(reference), second = luma(candidate);
  const double c1 = std::pow(0.01 * 255, 2), c2 = std::pow(0.03 * 255, 2);
  const cv::Mat mean1 = smooth(first), mean2 = smooth(second);
  const cv::Mat variance1 = smooth(first.mul(first)) - mean1.mul(mean1);
  const cv::Mat variance2 = smooth(second.mul(second)) - mean2.mul(mean2);
  const cv::Mat covariance = smooth(first.mul(second)) - mean1.mul(mean2);
  const cv::Mat above = (2 * mean1.mul(mean2) + c1).mul(2 * covariance + c2);
  const cv::Mat below = (mean1.mul(mean1) + mean2.mul(mean2) + c1).mul(variance1 + variance2 + c2);
  return cv::mean(above / below)[0];
}

cv::Mat lab(const cv::Mat& frame) {
  cv::Mat floats;
  frame.convertTo(floats, CV_32F, 1.0 / 255);
  cv::cvtColor(floats, floats, cv::COLOR_BGR2Lab);
  return floats;
}

double colour_difference(const cv::Mat& reference, const cv::Mat& candidate) {
  const cv::Mat first = lab(reference), second = lab(candidate);
  double sum = 0;
  for (int y = 0; y < first.rows; ++y) {
    for (int x = 0; x < first.cols; ++x) {
      if (reference.at<cv::Vec3b>(y, x) == candidate.at<cv::Vec3b>(y, x)) continue;
      sum += delta_e_2000(first.at<cv::Vec3f>(y, x), second.at<cv::Vec3f>(y, x));
    }
  }
  return sum / static_cast<double>(first.total());
}

double modulo(double value, double by) {
  const double rest = std::fmod(value, by);
  return rest < 0 ? rest + by : rest;
}

std::vector<std::string> failures_of(const ParityReport& report, const Limits& limits) {
  std::vector<std::string> failures;
  if (limits.max_abs && report.max_abs > *limits.max_abs) {
    failures.push_back("largest difference " + std::to_string(report.max_abs) + " 8-bit steps, allowed " +
                       std::to_string(*limits.max_abs));
  }
  if (limits.psnr_db && report.psnr_db < *limits.psnr_db) {
    failures.push_back("PSNR " + with_digits(report.psnr_db, 2) + " dB, needed " + with_digits(*limits.psnr_db, 2));
  }
  if (limits.delta_e && report.delta_e > *limits.delta_e) {
    failures.push_back("mean colour difference " + with_digits(report.delta_e, 3) + " ΔE2000, allowed " +
                       with_digits(*limits.delta_e, 3));
  }
  if (limits.changed && report.changed > *limits.changed) {
    failures.push_back(with_digits(100 * report.changed, 4) + "% of the values differ, allowed " +
                       with_digits(100 * *limits.changed, 4) + "%");
  }
  return failures;
}

}  // namespace

ParityReport compare(const std::vector<std::pair<cv::Mat, cv::Mat>>& pairs, const Limits& limits) {
  if (pairs.empty()) throw std::invalid_argument("no frame to compare");
  ParityReport report;
  std::array<std::int64_t, 256> counts{};
  double squares = 0, worst = -1;
  std::int64_t values = 0;
  for (const auto& [reference, candidate] : pairs) {
    if (reference.size() != candidate.size()) throw std::invalid_argument("frames of different sizes");
    cv::Mat difference;
    cv::absdiff(reference, candidate, difference);
    std::array<std::int64_t, 256> histogram{};
    for (int y = 0; y < difference.rows; ++y) {
      const auto* row = difference.ptr<unsigned char>(y);
      for (int i = 0; i < 3 * difference.cols; ++i) ++histogram[row[i]];
    }
    double square = 0;
    for (int step = 0; step < 256; ++step) {
      counts[step] += histogram[step];
      square += static_cast<double>(histogram[step]) * step * step;
    }
    const auto total = static_cast<std::int64_t>(difference.total()) * 3;
    const bool same = histogram[0] == total;
    report.ssim += same ? 1.0 : ssim(reference, candidate);
    report.delta_e += same ? 0.0 : colour_difference(reference, candidate);
    if (square / static_cast<double>(total) > worst) {
      worst = square / static_cast<double>(total);
      report.worst_frame = report.frames;
    }
    squares += square;
    values += total;
    ++report.frames;
  }
  report.psnr_db = decibels(squares / static_cast<double>(values));
  report.ssim /= report.frames;
  report.delta_e /= report.frames;
  report.changed = 1 - static_cast<double>(counts[0]) / static_cast<double>(values);
  std::int64_t below = 0;
  bool found = false;
  for (int step = 0; step < 256; ++step) {
    below += counts[step];
    if (counts[step]) report.max_abs = step;
    if (!found && static_cast<double>(below) / static_cast<double>(values) >= 0.999) {
      found = true;
      report.p999_abs = step;
    }
  }
  report.failures = failures_of(report, limits);
  return report;
}

// Follows Sharma, Wu, Dalal, The CIEDE2000 Color-Difference Formula, Color Research and Application 2005.
double delta_e_2000(const cv::Vec3d& first, const cv::Vec3d& second) {
  const auto radians = [](double degrees) { return degrees * kPi / 180; };
  const double seventh = std::pow(25.0, 7);
  const double mean7 = std::pow((std::hypot(first[1], first[2]) + std::hypot(second[1], second[2])) / 2, 7);
  const double stretch = 1.5 - 0.5 * std::sqrt(mean7 / (mean7 + seventh));
  const double a1 = first[1] * stretch, a2 = second[1] * stretch, b1 = first[2], b2 = second[2];
  const double chroma1 = std::hypot(a1, b1), chroma2 = std::hypot(a2, b2);
  const double hue1 = modulo(std::atan2(b1, a1) * 180 / kPi, 360), hue2 = modulo(std::atan2(b2, a2) * 180 / kPi, 360);
  const bool grey = chroma1 * chroma2 == 0;
  double hue_step = modulo(hue2 - hue1 + 180, 360) - 180;
  if (hue_step == -180 && hue2 > hue1) hue_step = 180;  // half a turn keeps the sign of the plain difference
  if (grey) hue_step = 0;
  const double hue_sum = hue1 + hue2;
  double mean_hue = hue_sum / 2;
  if (std::abs(hue1 - hue2) > 180) mean_hue = (hue_sum + (hue_sum < 360 ? 360 : -360)) / 2;
  if (grey) mean_hue = hue_sum;
  const double d_lightness = second[0] - first[0], d_chroma = chroma2 - chroma1;
  const double d_hue = 2 * std::sqrt(chroma1 * chroma2) * std::sin(radians(hue_step / 2));
  const double lightness = (first[0] + second[0]) / 2, chroma = (chroma1 + chroma2) / 2;
  const double weight = 1 - 0.17 * std::cos(radians(mean_hue - 30)) + 0.24 * std::cos(radians(2 * mean_hue)) +
                        0.32 * std::cos(radians(3 * mean_hue + 6)) - 0.20 * std::cos(radians(4 * mean_hue - 63));
  const double middle = (lightness - 50) * (lightness - 50);
  const double scale_lightness = 1 + 0.015 * middle / std::sqrt(20 + middle);
  const double scale_chroma = 1 + 0.045 * chroma, scale_hue = 1 + 0.015 * chroma * weight;
  const double chroma7 = std::pow(chroma, 7);
  const double rotation = -2 * std::sqrt(chroma7 / (chroma7 + seventh)) *
                          std::sin(radians(60 * std::exp(-std::pow((mean_hue - 275) / 25, 2))));
  const double l = d_lightness / scale_lightness, c = d_chroma / scale_chroma, h = d_hue / scale_hue;
  return std::sqrt(std::max(0.0, l * l + c * c + h * h + rotation * c * h));
}

}  // namespace genedge
