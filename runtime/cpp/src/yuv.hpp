// Between planar YUV 4:2:0 of 8 bits and BGR.
#pragma once

#include <cstdint>
#include <opencv2/core.hpp>

namespace genedge {

/// Where a plane of colours was sampled, in quarters of the distance between two rows (columns) of luma, counted from
/// the first: 0 on it, 2 in the middle to the next, 4 on the next.
struct ChromaPlace {
  int x = 2;
  int y = 2;
};

/// What a matrix makes of colours, in units of 1/65536: red of V, blue of U, and minus green of U and of V, all for
/// values from 16 to 235 (240); `full_range`: the picture's span 0 to 255.
struct YuvColors {
  int red_v = 104597;  // BT.601
  int blue_u = 132201;
  int green_u = 25675;
  int green_v = 53279;
  bool full_range = false;
};

struct Yuv420 {
  const std::uint8_t* planes[3];
  int strides[3];
};

/// Fill `out` (CV_8UC3 of the picture's size), with colours interpolated in both directions.
///
/// The numbers are those of FFmpeg 8's swscale with SWS_ACCURATE_RND and SWS_FULL_CHR_H_INT, bit for bit; before FFmpeg 7
/// it takes the nearest row of colours instead, and is up to 30 steps away.
void bgr_from_yuv420(const Yuv420& picture, ChromaPlace place, const YuvColors& colors, cv::Mat& out);

/// From BGR to limited range, as runtime/video/convert.py does it: OpenCV takes a quarter of swscale's time, to the same
/// pixels but for rounding. A colour is the mean of those of its four pixels.
class BgrTo420 {
 public:
  /// `matrix`: of H.273. Throws std::out_of_range for one that `knows` does not know.
  explicit BgrTo420(int matrix);
  static bool knows(int matrix);

  /// `image`: CV_8UC3 with even sides. The planes are filled.
  void operator()(const cv::Mat& image, std::uint8_t* const* planes, const int* strides);

 private:
  cv::Matx34d weights_;  // of B, G, R and 1 for Y, U and V
  cv::Mat packed_, whole_[2];
};

}  // namespace genedge
