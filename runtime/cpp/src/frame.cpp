#include "genedge/frame.hpp"

#include <algorithm>
#include <stdexcept>

namespace genedge {

int SizeRule::padded(int value) const {
  value = std::max(value, minimum);
  return (value + multiple - 1) / multiple * multiple;
}

void check_frame(const cv::Mat& frame) {
  if (frame.empty() || frame.dims != 2 || frame.type() != CV_8UC3 || !frame.isContinuous()) {
    throw std::invalid_argument("a frame is CV_8UC3, not empty, and its rows have no gaps");
  }
}

}  // namespace genedge
