// Conversions between 4:2:0 pictures and BGR against the same in double precision.
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

/// Of luma and of colours, by the definition of the matrix with these shares of red and blue.
double largest_difference_to_420(cv::Size size, int matrix, double red, double blue) {
  cv::Mat image(size, CV_8UC3);
  cv::RNG random(9);
  random.fill(image, cv::RNG::UNIFORM, 0, 256);
  std::vector<std::uint8_t> planes[3];
  for (int i = 0; i < 3; ++i) planes[i].resize(static_cast<std::size_t>((i ? size / 2 : size).area()));
  std::uint8_t* pointers[] = {planes[0].data(), planes[1].data(), planes[2].data()};
  const int strides[] = {size.width, size.width / 2, size.width / 2};
  genedge::BgrTo420 convert(matrix);
  convert(image, pointers, strides);
  double largest = 0;
  for (int y = 0; y < size.height; y += 2) {
    for (int x = 0; x < size.width; x += 2) {
      double u = 0, v = 0;
      for (int pixel = 0; pixel < 4; ++pixel) {
        const auto at = cv::Point(x + pixel % 2, y + pixel / 2);
        const auto bgr = image.at<cv::Vec3b>(at);
        const double light = red * bgr[2] + (1 - red - blue) * bgr[1] + blue * bgr[0];
        u += (bgr[0] - light) / (1 - blue) / 2 / 4 * 224 / 255;
        v += (bgr[2] - light) / (1 - red) / 2 / 4 * 224 / 255;
        const double wanted = 16 + light * 219 / 255;
        largest = std::max(largest, std::abs(wanted - planes[0][static_cast<std::size_t>(at.y * size.width + at.x)]));
      }
      const auto place = static_cast<std::size_t>(y / 2 * (size.width / 2) + x / 2);
      largest = std::max({largest, std::abs(128 + u - planes[1][place]), std::abs(128 + v - planes[2][place])});
    }
  }
  return largest;
}

}  // namespace

int main() {
  // weights are rounded to 1/1024, luma once, colours before and after the mean of four
  CHECK(largest_difference_to_420({40, 24}, 1, 0.2126, 0.0722) < 1.3);
  CHECK(largest_difference_to_420({2, 2}, 6, 0.299, 0.114) < 1.3);
  CHECK(largest_difference_to_420({64, 2}, 9, 0.2627, 0.0593) < 1.3);
  CHECK(!genedge::BgrTo420::knows(2));
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
