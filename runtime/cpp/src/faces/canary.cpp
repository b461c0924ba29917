#include "faces/canary.h"

#include <algorithm>
#include <cmath>

#include <opencv2/imgproc.hpp>

#include "faces/average.h"

namespace genedge::faces {
namespace {

constexpr double kSide = 128;   // pixels of the face's height, where the frame is large enough
constexpr double kWhole = 640;  // longer side at which the whole frame is searched
constexpr int kGrey = 128;

}  // namespace

Canary::Canary(cv::Size size) {
  const cv::Mat& picture = average_faces().front().levels.front();
  // at the size at which the whole frame is searched, a face of kSide pixels
  const double tall = std::min({kSide * std::max(1.0, std::max(size.height, size.width) / kWhole), 0.9 * size.height,
                                0.9 * size.width});
  const auto side = [](double pixels) { return std::max(1, static_cast<int>(std::nearbyint(pixels))); };
  const cv::Size shown(side(picture.cols * (tall / picture.rows)), side(tall));
  cv::Mat small;
  cv::resize(picture, small, shown, 0, 0, cv::INTER_AREA);
  frame_ = cv::Mat(size, CV_8UC3, cv::Scalar::all(kGrey));
  const int left = (size.width - shown.width) / 2, top = (size.height - shown.height) / 2;
  for (int row = 0; row < shown.height; ++row) {
    for (int column = 0; column < shown.width; ++column) {
      const auto& pixel = small.at<cv::Vec4b>(row, column);
      const float alpha = static_cast<float>(pixel[3]) / 255.0f;
      for (int channel = 0; channel < 3; ++channel) {
        const float value = alpha * static_cast<float>(pixel[channel]) + (1.0f - alpha) * kGrey;
        frame_.at<cv::Vec3b>(top + row, left + column)[channel] =
            static_cast<unsigned char>(std::clamp(value, 0.0f, 255.0f));
      }
    }
  }
  box_ = {static_cast<double>(left), static_cast<double>(top), static_cast<double>(shown.width),
          static_cast<double>(shown.height)};
}

double Canary::score(FaceDetector& detector) const {
  double best = 0;
  for (const Face& face : detector.detect(frame_)) {
    if (face.box.iou(box_) > 0.2) best = std::max(best, face.score);
  }
  return best;
}

}  // namespace genedge::faces
