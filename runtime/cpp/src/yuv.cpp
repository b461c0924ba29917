#include "yuv.hpp"

#include <algorithm>
#include <vector>

namespace genedge {
namespace {

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

}  // namespace genedge
