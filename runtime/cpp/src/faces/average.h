// Draws a face of the bank of average faces: runtime/faces/average.py and bank.py.
#pragma once

#include <map>
#include <vector>

#include <opencv2/core.hpp>

#include "genedge/faces/methods.hpp"

namespace genedge::faces {

// A face of nobody: `levels` are CV_8UC4, BGR and how much is shown, each half as large as the one before; `landmarks`
// are pixels of the first.
struct AverageFace {
  std::vector<cv::Mat> levels;
  Landmarks landmarks;
};

// All faces of the bank, which is built in.
const std::vector<AverageFace>& average_faces();

// Draws the same average face for the same track, in colours that follow the surroundings slowly. The original face is
// never read: brightness and warmth come from the pixels around the regions.
class AveragePainter : public Painter {
 public:
  void look(const cv::Mat& image, const cv::Mat& mask) override;
  void paint(const cv::Mat& original, cv::Mat& target, const Cover& cover, const TrackKeys& keys) override;

 private:
  using Tone = cv::Vec4d;  // gains of blue, green and red, and how much colour

  struct State {
    Tone tone;
    int used;
  };

  Tone tone_of(int track, const cv::Mat& around);

  cv::Vec3d scene_mean_{128.0, 128.0, 128.0};
  double scene_colour_ = 1.0;
  std::map<int, State> tracks_;
  int count_ = 0;
};

}  // namespace genedge::faces
