#include "yuv.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <opencv2/imgproc.hpp>
#include <vector>

namespace genedge {
namespace {

/// The shares of red and blue in luma, by the matrix's number in H.273.
struct Luma {
  double red, blue;
};
const std::map<int, Luma> kLuma = {{1, {0.2126, 0.0722}}, {4, {0.30, 0.11}},   {5, {0.299, 0.114}},
                                   {6, {0.299, 0.114}},   {7, {0.212, 0.087}}, {9, {0.2627, 0.0593}}};
constexpr double kUnits = 1024;  // OpenCV rounds the weights of 8-bit pixels to so many parts of one

constexpr int kShift = 22;
constexpr int kBias = 128;  // taken off every value in between, so that none leaves 32 bits

/// Which two samples lie around a pixel, and the second one's share in quarters.
struct Neighbours {
  int first, second, share;
};

Neighbours around(int position, int place, int count) {
  // two pixels a sample: in quarters of a pixel, the sample k lies at 8 k + place
  const int offset = 4 * position - place;
  const int index = offset >= 0 ? offset / 8 : -1;
  return {std::clamp(index, 0, count - 1), std::clamp(index + 1, 0, count - 1), (offset - 8 * index) / 2};
}

/// A row of colours between two others, four times as large.
void between_rows(const std::uint8_t* first, const std::uint8_t* second, int share, int count, std::int32_t* row) {
  for (int i = 0; i < count; ++i) row[i] = first[i] * (4 - share) + second[i] * share;
}

/// Twice as wide, sixteen times as large, less the value of grey.
void widened(const std::vector<std::int32_t>& row, int place, int width, std::int32_t* wide) {
  const int count = static_cast<int>(row.size());
  constexpr int kGrey = 128 * 16;
  for (int phase = 0; phase < 2; ++phase) {
    // the neighbours of pixel 2 i + phase are those of `phase`, i samples on
    const int offset = 4 * phase - place, step = offset >= 0 ? 0 : -1, share = (offset - 8 * step) / 2;
    const int begin = -step, end = std::min(count - 1 - step, (width - phase + 1) / 2);
    for (int i = begin; i < end; ++i) {
      if (i + step + 1 >= count) break;
      wide[2 * i + phase] = row[i + step] * (4 - share) + row[i + step + 1] * share - kGrey;
    }
    for (int i = 0; i < (width - phase + 1) / 2; ++i) {
      if (i >= begin && i + step + 1 < count) continue;
      const auto near = around(2 * i + phase, place, count);
      wide[2 * i + phase] = row[near.first] * (4 - near.share) + row[near.second] * near.share - kGrey;
    }
  }
}

std::uint8_t clipped(std::int32_t value) { 
  return static_cast<std::uint8_t>(std::clamp((value >> kShift) + kBias, 0, 255));
}

}  // namespace

void bgr_from_yuv420(const Yuv420& picture, ChromaPlace place, const YuvColors& colors, cv::Mat& out) {
  const int width = out.cols, height = out.rows, columns = (width + 1) / 2, rows = (height + 1) / 2;
  const auto rounded = [](std::int64_t value) { return static_cast<std::int32_t>((value + 4) >> 3); };
  const auto scaled = [&](std::int64_t value) { return 32 * rounded(colors.full_range ? value * 224 / 255 : value); };
  const std::int32_t y_unit = rounded(colors.full_range ? 65536 : 65536 * 255 / 219), y_step = 512 * y_unit;
  const std::int32_t r_v = scaled(colors.red_v), b_u = scaled(colors.blue_u);
  const std::int32_t g_u = scaled(-colors.green_u), g_v = scaled(-colors.green_v);
  const std::int32_t half =
      (1 << (kShift - 1)) - (colors.full_range ? 0 : 16 * y_step) - static_cast<std::int32_t>(kBias << kShift);
  std::vector<std::int32_t> u_row(static_cast<std::size_t>(columns)), v_row(static_cast<std::size_t>(columns));
  std::vector<std::int32_t> u_wide(static_cast<std::size_t>(width)), v_wide(static_cast<std::size_t>(width));
  cv::Mat blue(1, width, CV_8U), greens(1, width, CV_8U), red(1, width, CV_8U);
  const cv::Mat parts[] = {blue, greens, red};
  for (int y = 0; y < height; ++y) {
    const auto near = around(y, place.y, rows);
    const auto row_of = [&](int plane, int index) {
      return picture.planes[plane] + std::ptrdiff_t{index} * picture.strides[plane];
    };
    between_rows(row_of(1, near.first), row_of(1, near.second), near.share, columns, u_row.data());
    between_rows(row_of(2, near.first), row_of(2, near.second), near.share, columns, v_row.data());
    widened(u_row, place.x, width, u_wide.data());
    widened(v_row, place.x, width, v_wide.data());
    const std::uint8_t* light = row_of(0, y);
    std::uint8_t *b = blue.data, *g = greens.data, *r = red.data;
    const std::int32_t *u = u_wide.data(), *v = v_wide.data();
    for (int x = 0; x < width; ++x) b[x] = clipped(light[x] * y_step + half + u[x] * b_u);
    for (int x = 0; x < width; ++x) g[x] = clipped(light[x] * y_step + half + u[x] * g_u + v[x] * g_v);
    for (int x = 0; x < width; ++x) r[x] = clipped(light[x] * y_step + half + v[x] * r_v);
    cv::Mat row = out.row(y);
    cv::merge(parts, 3, row);
  }
}

bool BgrTo420::knows(int matrix) { return kLuma.count(matrix) > 0; }

BgrTo420::BgrTo420(int matrix) {
  const auto [red, blue] = kLuma.at(matrix);
  const double y[3] = {blue, 1 - red - blue, red};
  const double offsets[3] = {16, 128, 128};
  for (int row = 0; row < 3; ++row) {
    double exact[3], rounded[3], exact_sum = 0, rounded_sum = 0;
    for (int i = 0; i < 3; ++i) {
      const double u = ((i == 0) - y[i]) / (1 - blue) / 2, v = ((i == 2) - y[i]) / (1 - red) / 2;
      exact[i] = (row == 0 ? y[i] * 219 : (row == 1 ? u : v) * 224) / 255 * kUnits;
      rounded[i] = std::nearbyint(exact[i]);
      exact_sum += exact[i];
      rounded_sum += rounded[i];
    }
    // grey shall have no colour, and white be as light as it shall be: the weight that was rounded worst makes up for it
    const double off = std::nearbyint(exact_sum) - rounded_sum;  // at most one unit
    const double sign = off > 0 ? 1 : off < 0 ? -1 : 0;
    int worst = 0;
    for (int i = 1; i < 3; ++i) {
      if (sign * (exact[i] - rounded[i]) > sign * (exact[worst] - rounded[worst])) worst = i;
    }
    rounded[worst] += off;
    for (int i = 0; i < 3; ++i) weights_(row, i) = rounded[i] / kUnits;
    weights_(row, 3) = offsets[row];
  }
}

void BgrTo420::operator()(const cv::Mat& image, std::uint8_t* const* planes, const int* strides) {
  const auto step = [&](int plane) { return static_cast<std::size_t>(strides[plane]); };
  const cv::Size half = image.size() / 2;
  cv::transform(image, packed_, weights_);
  for (auto& whole : whole_) whole.create(image.size(), CV_8UC1);
  cv::Mat parts[3] = {cv::Mat(image.size(), CV_8UC1, planes[0], step(0)), whole_[0], whole_[1]};
  cv::split(packed_, parts);
  for (int i = 0; i < 2; ++i) {
    cv::Mat plane(half, CV_8UC1, planes[i + 1], step(i + 1));
    cv::resize(whole_[i], plane, half, 0, 0, cv::INTER_AREA);
  }
}

}  // namespace genedge
