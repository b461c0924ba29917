#include "faces/align.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <opencv2/imgproc.hpp>

namespace genedge::faces {
namespace {

constexpr double kGive = 0.5;          // share of the affine map in a placement
constexpr double kRollLimit = 75.0;    // degrees that the line of the eyes may be tilted
constexpr double kProfileLimit = 0.3;  // least distance of the eyes over that from the eyes to the mouth
constexpr double kNoseLimit = 1.0;     // distances of the eyes that the nose may be from their middle, along their line
constexpr double kDegrees = 180 / 3.141592653589793;

std::pair<double, double> middle_of(const Landmarks& points) {
  double x = 0, y = 0;
  for (const Point& point : points) {
    x += point.x;
    y += point.y;
  }
  return {x / points.size(), y / points.size()};
}

// The affine map that brings `source` closest to `target` in squares.
Affine affine(const Landmarks& source, const Landmarks& target) {
  cv::Matx<double, 5, 3> design;
  cv::Matx<double, 5, 2> goal;
  for (int row = 0; row < 5; ++row) {
    const auto place = static_cast<std::size_t>(row);
    design(row, 0) = source[place].x;
    design(row, 1) = source[place].y;
    design(row, 2) = 1;
    goal(row, 0) = target[place].x;
    goal(row, 1) = target[place].y;
  }
  cv::Matx<double, 3, 2> solution;
  cv::solve(design, goal, solution, cv::DECOMP_SVD);
  return solution.t();
}

}  // namespace

Affine similarity(const Landmarks& source, const Landmarks& target) {
  const auto [x0, y0] = middle_of(source);
  const auto [u0, v0] = middle_of(target);
  double size = 0, along = 0, across = 0;
  for (std::size_t place = 0; place < source.size(); ++place) {
    const double x = source[place].x - x0, y = source[place].y - y0;
    const double u = target[place].x - u0, v = target[place].y - v0;
    size += x * x + y * y;
    along += x * u + y * v;
    across += x * v - y * u;
  }
  const double cosine = along / size, sine = across / size;
  return {cosine, -sine, u0 - (cosine * x0 - sine * y0), sine, cosine, v0 - (sine * x0 + cosine * y0)};
}

Affine placement(const Landmarks& source, const Landmarks& target) {
  const Affine plain = similarity(source, target);
  const Affine bent = affine(source, target);
  const double a = bent(0, 0), b = bent(0, 1), c = bent(1, 0), d = bent(1, 1);
  // singular values of a 2x2 matrix: half the sum and half the difference of these
  const double sum = std::hypot(a + d, c - b), difference = std::hypot(a - d, c + b);
  const double longer = (sum + difference) / 2, shorter = std::abs(sum - difference) / 2;
  if (a * d - b * c <= 0 || longer > 2 * shorter) return plain;
  return (1 - kGive) * plain + kGive * bent;
}

double growth(const Affine& matrix) { return std::abs(matrix(0, 0) * matrix(1, 1) - matrix(0, 1) * matrix(1, 0)); }

cv::Mat warped(const cv::Mat& image, const Affine& matrix, cv::Size size, bool repeated) {
  Affine back;
  cv::invertAffineTransform(matrix, back);
  const int channels = image.channels();
  cv::Mat out = cv::Mat::zeros(size, image.type());
  for (int y = 0; y < size.height; ++y) {
    unsigned char* line = out.ptr(y);
    for (int x = 0; x < size.width; ++x, line += channels) {
      double across = back(0, 0) * x + back(0, 1) * y + back(0, 2);
      double down = back(1, 0) * x + back(1, 1) * y + back(1, 2);
      if (repeated) {  // beyond the border it is what it is there
        across = std::clamp(across, 0.0, image.cols - 1.0);
        down = std::clamp(down, 0.0, image.rows - 1.0);
      }
      if (!(across > -1 && across < image.cols && down > -1 && down < image.rows)) continue;
      const int left = static_cast<int>(std::floor(across)), top = static_cast<int>(std::floor(down));
      const float right_share = static_cast<float>(across - left), low_share = static_cast<float>(down - top);
      for (int channel = 0; channel < channels; ++channel) {
        const auto at = [&](int column, int row) {
          const bool inside = column >= 0 && column < image.cols && row >= 0 && row < image.rows;
          return inside ? static_cast<float>(image.ptr(row)[column * channels + channel]) : 0.0f;
        };
        const float upper = at(left, top) + right_share * (at(left + 1, top) - at(left, top));
        const float lower = at(left, top + 1) + right_share * (at(left + 1, top + 1) - at(left, top + 1));
        line[channel] = static_cast<unsigned char>(std::lrint(upper + low_share * (lower - upper)));
      }
    }
  }
  return out;
}

cv::Mat warped_smoothly(const cv::Mat& image, const Affine& matrix, cv::Size size) {
  constexpr float kSharp = -0.75f;  // as OpenCV's bicubic weights have it
  const auto weights = [](float share) {
    const auto near = [](float far) { return ((kSharp + 2) * far - (kSharp + 3)) * far * far + 1; };
    const auto away = [](float far) { return ((kSharp * far - 5 * kSharp) * far + 8 * kSharp) * far - 4 * kSharp; };
    return cv::Vec4f(away(1 + share), near(share), near(1 - share), away(2 - share));
  };
  Affine back;
  cv::invertAffineTransform(matrix, back);
  cv::Mat out(size, CV_8UC3);
  for (int y = 0; y < size.height; ++y) {
    for (int x = 0; x < size.width; ++x) {
      const double across = back(0, 0) * x + back(0, 1) * y + back(0, 2);
      const double down = back(1, 0) * x + back(1, 1) * y + back(1, 2);
      const int left = static_cast<int>(std::floor(std::clamp(across, -1e6, 1e6)));
      const int top = static_cast<int>(std::floor(std::clamp(down, -1e6, 1e6)));
      const cv::Vec4f columns = weights(static_cast<float>(across - left)), rows = weights(static_cast<float>(down - top));
      cv::Vec3f sum(0, 0, 0);
      for (int row = 0; row < 4; ++row) {
        const auto* line = image.ptr<cv::Vec3b>(std::clamp(top + row - 1, 0, image.rows - 1));
        for (int column = 0; column < 4; ++column) {
          const cv::Vec3b& pixel = line[std::clamp(left + column - 1, 0, image.cols - 1)];
          const float weight = rows[row] * columns[column];
          for (int channel = 0; channel < 3; ++channel) sum[channel] += weight * pixel[channel];
        }
      }
      for (int channel = 0; channel < 3; ++channel) {
        out.at<cv::Vec3b>(y, x)[channel] = cv::saturate_cast<unsigned char>(sum[channel]);
      }
    }
  }
  return out;
}

std::string trouble_with(const std::optional<Landmarks>& landmarks) {
  if (!landmarks) return "no landmarks";
  for (const Point& point : *landmarks) {
    if (!std::isfinite(point.x) || !std::isfinite(point.y)) return "no landmarks";
  }
  const auto x = [&](std::size_t place) { return static_cast<double>((*landmarks)[place].x); };
  const auto y = [&](std::size_t place) { return static_cast<double>((*landmarks)[place].y); };
  const double eyes_x = x(1) - x(0), eyes_y = y(1) - y(0);
  const double middle_x = (x(0) + x(1)) / 2, middle_y = (y(0) + y(1)) / 2;
  const double between = std::hypot(eyes_x, eyes_y);
  const double down = std::hypot((x(3) + x(4)) / 2 - middle_x, (y(3) + y(4)) / 2 - middle_y);
  if (between < 1 || down < 1) return std::max(between, down) >= 1 ? "profile" : "no landmarks";
  if (std::abs(std::atan2(eyes_y, eyes_x) * kDegrees) > kRollLimit || between < kProfileLimit * down) return "profile";
  const double aside = ((x(2) - middle_x) * eyes_x + (y(2) - middle_y) * eyes_y) / (between * between);
  return std::abs(aside) > kNoseLimit ? "profile" : "";
}

}  // namespace genedge::faces
