// Conversion of 4:2:0 pictures against the same in double precision, with colours interpolated between their places.
#include <cmath>
#include <vector>

#include "check.hpp"
#include "yuv.hpp"

namespace {

/// A plane of colours at a pixel: linear between the samples, which lie two pixels apart from `place` quarters on.
double sampled(const std::vector<std::uint8_t>& plane, cv::Size size, int x, int y, genedge::ChromaPlace place) {
  const auto split = [](int position, int first, int count, int& low, int& high) {
    const double at = (position - first / 4.0) / 2, floor = std::floor(at);
    low = std::min(std::max(static_cast<int>(floor), 0), count - 1);
    high = std::min(std::max(static_cast<int>(floor) + 1, 0), count - 1);
    return at - floor;
  };
  int left, right, top, bottom;
  const double over = split(x, place.x, size.width, left, right), down = split(y, place.y, size.height, top, bottom);
  const auto at = [&](int row, int column) { return plane[static_cast<std::size_t>(row * size.width + column)]; };
  return (at(top, left) * (1 - over) + at(top, right) * over) * (1 - down) +
         (at(bottom, left) * (1 - over) + at(bottom, right) * over) * down;
}

double largest_difference(cv::Size size, genedge::ChromaPlace place, const genedge::YuvColors& colors) {
  const cv::Size half((size.width + 1) / 2, (size.height + 1) / 2);
  std::vector<std::uint8_t> planes[3];
  cv::RNG random(7);
  for (int i = 0; i < 3; ++i) {
    planes[i].resize(static_cast<std::size_t>((i ? half : size).area()));
    for (auto& value : planes[i]) value = static_cast<std::uint8_t>(random.uniform(0, 256));
  }
  const genedge::Yuv420 picture{{planes[0].data(), planes[1].data(), planes[2].data()},
                                {size.width, half.width, half.width}};
  cv::Mat out(size, CV_8UC3);
  genedge::bgr_from_yuv420(picture, place, colors, out);
  double largest = 0;
  for (int y = 0; y < size.height; ++y) {
    for (int x = 0; x < size.width; ++x) {
      const double range = colors.full_range ? 255 : 219, wide = colors.full_range ? 255 : 224;
      const double light = (planes[0][static_cast<std::size_t>(y * size.width + x)] - (colors.full_range ? 0 : 16)) *
                           255 / range;
      const double u = (sampled(planes[1], half, x, y, place) - 128) * 255 / wide;
      const double v = (sampled(planes[2], half, x, y, place) - 128) * 255 / wide;
      const auto part = [](int of_65536) { return of_65536 / 65536.0 * 224 / 255; };
      const double blue = light + part(colors.blue_u) * u, red = light + part(colors.red_v) * v;
      const double green = light - part(colors.green_u) * u - part(colors.green_v) * v;
      const double wanted[] = {blue, green, red};
      for (int i = 0; i < 3; ++i) {
        const double value = std::min(std::max(wanted[i], 0.0), 255.0);
        largest = std::max(largest, std::abs(value - out.at<cv::Vec3b>(y, x)[i]));
      }
    }
  }
  return largest;
}

}  // namespace

int main() {
  for (const auto size : {cv::Size(33, 17), cv::Size(2, 2), cv::Size(1, 1), cv::Size(40, 24)}) {
    for (const int x : {0, 2}) {
      for (const int y : {0, 2, 4}) {
        for (const bool full : {false, true}) {
          CHECK(largest_difference(size, {x, y}, {104597, 132201, 25675, 53279, full}) < 0.53);
          CHECK(largest_difference(size, {x, y}, {117504, 138453, 13954, 34903, full}) < 0.53);
        }
      }
    }
  }
  return result();
}
