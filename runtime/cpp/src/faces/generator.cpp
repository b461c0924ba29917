#include "faces/generator.h"

#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <opencv2/imgproc.hpp>

#include "faces/blend.h"
#include "faces/noise.h"
#include "genedge/error.hpp"
#include "text.hpp"

namespace genedge::faces {
namespace {

constexpr double kWide = 0.75;   // size of the face in the crop; 1 is that of face recognition
const cv::Rect kErased(24, 8, 48, 80);  // part of the crop; a whole number of pixels for each cell, 6 x 10
constexpr int kCellWidth = 6, kCellHeight = 10;
constexpr double kKept = 0.6;    // share of a landmark's distance from the template that is kept
constexpr double kNoise = 4.0;   // standard deviation of the thumbnail's noise, in grey levels
constexpr std::uint64_t kSeeds = std::uint64_t{1} << 62;  // so many that nobody can try them all
constexpr float kSmoothing = 0.25f;  // share of a new frame in the thumbnail of a track
constexpr std::size_t kTracks = 64;  // whose thumbnails are remembered: those that were drawn last

// Where the landmarks of an aligned face are: the template of face recognition (Deng et al., CVPR 2019), made smaller.
const Landmarks& crop_template() {
  static const Landmarks points = [] {
    constexpr double kRecognition[5][2] = {
        {38.2946, 51.6963}, {73.5318, 51.5014}, {56.0252, 71.7366}, {41.5493, 92.3655}, {70.7299, 92.2041}};
    const auto placed = [](double value) {
      return static_cast<float>((value - 55.5) * (kWide * kCropSide / 112) + (kCropSide - 1) / 2.0);
    };
    Landmarks result;
    for (std::size_t place = 0; place < result.size(); ++place) {
      result[place] = {placed(kRecognition[place][0]), placed(kRecognition[place][1])};
    }
    return result;
  }();
  return points;
}

cv::Rect cell_at(int row, int column) {
  return {kErased.x + column * kCellWidth, kErased.y + row * kCellHeight, kCellWidth, kCellHeight};
}

// How much of the generator's face is shown, CV_8UC1.
const cv::Mat& hull() {
  static const cv::Mat shown = [] {
    cv::Mat result(kCropSide, kCropSide, CV_8UC1);
    for (int row = 0; row < kCropSide; ++row) {
      for (int column = 0; column < kCropSide; ++column) {
        const double middle = kErased.x + (kErased.width - 1) / 2.0, level = kErased.y + kErased.height / 2.0 - 0.5;
        const double across = std::abs(column - middle) / (kErased.width / 2.0);
        const double down = std::abs(row - level) / (kErased.height / 2.0);
        const double far = std::pow(std::pow(across, 2.2) + std::pow(down, 2.2), 1 / 2.2);
        const double soft = std::clamp((1 - far) / 0.2, 0.0, 1.0);
        result.at<unsigned char>(row, column) =
            static_cast<unsigned char>(std::nearbyint(255 * soft * soft * (3 - 2 * soft)));
      }
    }
    return result;
  }();
  return shown;
}

// `face` with less colour, or none, where `thumbnail` has next to none.
cv::Mat coloured_as(const cv::Mat& face, const Thumbnail& thumbnail) {
  double spread = 0;
  for (const cv::Vec3f& colour : thumbnail) {
    spread += std::max({colour[0], colour[1], colour[2]}) - std::min({colour[0], colour[1], colour[2]});
  }
  const double share = colour_share(spread / thumbnail.size());  // the noise is coloured, black and white is not
  if (share == 1) return face;
  cv::Mat grey, out;
  cv::cvtColor(face, grey, cv::COLOR_BGR2GRAY);
  cv::cvtColor(grey, grey, cv::COLOR_GRAY2BGR);
  cv::addWeighted(face, share, grey, 1 - share, 0, out);
  return out;
}

class GeneratorPainter : public Painter {
 public:
  explicit GeneratorPainter(std::unique_ptr<Session> session) : session_(std::move(session)) {
    const std::map<std::string, Code>& codes = session_->codes();
    const auto landmarks = codes.find("landmarks"), passcode = codes.find("passcode");
    if (codes.size() != 2 || landmarks == codes.end() || passcode == codes.end() || passcode->second.kind != "bits" ||
        landmarks->second.size() != 10) {
      std::vector<std::string> names;
      for (const auto& code : codes) names.push_back(code.first);
      throw Error("a face generator takes the codes landmarks (10 numbers) and passcode (bits), not " +
                  (names.empty() ? "none" : joined(names)));
    }
    bits_ = passcode->second;
  }

  void paint(const cv::Mat& original, cv::Mat& target, const Cover& cover, const TrackKeys& keys) override {
    const Landmarks& points = cover.landmarks.value();
    const Thumbnail thumbnail = smoothed(cover.track, thumbnail_of(aligned(original, crop_matrix(points))));
    const SanitisedFace face = sanitised(target, points, keys.number(cover.track, kSeeds), thumbnail);
    std::vector<double> passcode;
    for (const bool on : keys.bits(cover.track, bits_.size())) passcode.push_back(on ? bits_.high : bits_.low);
    session_->set_codes({{"landmarks", face.landmarks}, {"passcode", passcode}});
    put_back(coloured_as(session_->infer(face.frame), thumbnail), face.matrix, target);
  }

 private:
  Thumbnail smoothed(int track, Thumbnail thumbnail) {
    const auto known = std::find_if(before_.begin(), before_.end(), [track](const auto& each) {
      return each.first == track;
    });
    if (known != before_.end()) {
      for (std::size_t cell = 0; cell < thumbnail.size(); ++cell) {
        const cv::Vec3f& last = known->second[cell];
        for (int channel = 0; channel < 3; ++channel) {
          thumbnail[cell][channel] = last[channel] + kSmoothing * (thumbnail[cell][channel] - last[channel]);
        }
      }
      before_.erase(known);
    }
    before_.emplace_back(track, thumbnail);
    if (before_.size() > kTracks) before_.pop_front();
    return thumbnail;
  }

  const std::unique_ptr<Session> session_;
  Code bits_;
  std::list<std::pair<int, Thumbnail>> before_;  // the latest last
};

}  // namespace

Affine crop_matrix(const Landmarks& landmarks) {
  float left = landmarks[0].x, right = left, top = landmarks[0].y, bottom = top;
  for (const Point& point : landmarks) {
    if (!std::isfinite(point.x) || !std::isfinite(point.y)) left = right = top = bottom = NAN;
    left = std::min(left, point.x);
    right = std::max(right, point.x);
    top = std::min(top, point.y);
    bottom = std::max(bottom, point.y);
  }
  if (!(std::max(right - left, bottom - top) >= 1)) {
    throw Error("a face cannot be aligned: its landmarks fall together or are not finite");
  }
  return similarity(landmarks, crop_template());
}

cv::Mat aligned(const cv::Mat& image, const Affine& matrix) {
  const int step = static_cast<int>(1 / std::max(1e-6, std::sqrt(growth(matrix))));
  const cv::Size crop(kCropSide, kCropSide);
  if (step <= 1 || std::min(image.rows, image.cols) < step) return warped(image, matrix, crop, true);
  // a face larger than the crop is first made smaller by whole pixels, so that every pixel of it counts
  cv::Mat small;
  cv::resize(image, small, image.size() / step, 0, 0, cv::INTER_AREA);
  const double across = static_cast<double>(image.cols) / small.cols, down = static_cast<double>(image.rows) / small.rows;
  // pixel centres: x = factor * (x_small + 1/2) - 1/2
  const double right = (across - 1) / 2, low = (down - 1) / 2;
  return warped(small,
                {matrix(0, 0) * across, matrix(0, 1) * down, matrix(0, 0) * right + matrix(0, 1) * low + matrix(0, 2),
                 matrix(1, 0) * across, matrix(1, 1) * down, matrix(1, 0) * right + matrix(1, 1) * low + matrix(1, 2)},
                crop, true);
}

Thumbnail thumbnail_of(const cv::Mat& crop) {
  Thumbnail thumbnail;
  for (int row = 0; row < kCropCells; ++row) {
    for (int column = 0; column < kCropCells; ++column) {
      const cv::Scalar sum = cv::sum(crop(cell_at(row, column)));
      cv::Vec3f& colour = thumbnail[static_cast<std::size_t>(row * kCropCells + column)];
      for (int channel = 0; channel < 3; ++channel) {
        colour[channel] = static_cast<float>(sum[channel] / (kCellWidth * kCellHeight));
      }
    }
  }
  return thumbnail;
}

SanitisedFace sanitised(const cv::Mat& surroundings, const Landmarks& landmarks, std::uint64_t seed,
                        const Thumbnail& thumbnail) {
  SanitisedFace face;
  face.matrix = crop_matrix(landmarks);
  face.frame = aligned(surroundings, face.matrix);
  // new noise in every frame would average out, so a track has the same one always
  const std::vector<double> noise = standard_normal(seed, 3 * thumbnail.size());
  for (int row = 0; row < kCropCells; ++row) {
    for (int column = 0; column < kCropCells; ++column) {
      const auto cell = static_cast<std::size_t>(row * kCropCells + column);
      cv::Scalar colour;
      for (std::size_t channel = 0; channel < 3; ++channel) {
        const float level = thumbnail[cell][static_cast<int>(channel)] +
                            static_cast<float>(kNoise * noise[3 * cell + channel]);
        colour[static_cast<int>(channel)] = std::clamp(std::nearbyint(level), 0.0f, 255.0f);
      }
      face.frame(cell_at(row, column)).setTo(colour);
    }
  }
  const Affine& matrix = face.matrix;
  for (std::size_t place = 0; place < landmarks.size(); ++place) {
    const double x = landmarks[place].x, y = landmarks[place].y;
    const double placed[2] = {matrix(0, 0) * x + matrix(0, 1) * y + matrix(0, 2),
                              matrix(1, 0) * x + matrix(1, 1) * y + matrix(1, 2)};
    const double usual[2] = {crop_template()[place].x, crop_template()[place].y};
    for (int axis = 0; axis < 2; ++axis) {
      const double drawn = usual[axis] + kKept * (placed[axis] - usual[axis]);
      face.landmarks.push_back(static_cast<float>(std::clamp((drawn + 0.5) * (2.0 / kCropSide) - 1, -1.0, 1.0)));
    }
  }
  return face;
}

void put_back(const cv::Mat& face, const Affine& matrix, cv::Mat& image) {
  Affine back;
  cv::invertAffineTransform(matrix, back);
  double least[2] = {INFINITY, INFINITY}, most[2] = {-INFINITY, -INFINITY};
  for (const int x : {0, kCropSide}) {
    for (const int y : {0, kCropSide}) {
      for (int axis = 0; axis < 2; ++axis) {
        const double place = back(axis, 0) * x + back(axis, 1) * y + back(axis, 2);
        least[axis] = std::min(least[axis], place);
        most[axis] = std::max(most[axis], place);
      }
    }
  }
  const auto whole = [](double value, int side) {
    return static_cast<int>(std::clamp(value, 0.0, static_cast<double>(side)));
  };
  const Window window{whole(std::floor(least[0]) - 1, image.cols), whole(std::floor(least[1]) - 1, image.rows),
                      whole(std::ceil(most[0]) + 2, image.cols), whole(std::ceil(most[1]) + 2, image.rows)};
  if (window.empty()) return;
  back(0, 2) -= window.left;
  back(1, 2) -= window.top;
  const cv::Size size(window.width(), window.height());
  // a face larger than the crop looks blocky at its edges with bilinear weights alone
  const cv::Mat drawn = warped_smoothly(face, back, size);
  const cv::Mat alpha = warped(hull(), back, size);
  cv::Mat part = image(window.rect());
  for (int row = 0; row < part.rows; ++row) {
    for (int column = 0; column < part.cols; ++column) {
      const float weight = static_cast<float>(alpha.at<unsigned char>(row, column)) / 255.0f;
      auto& pixel = part.at<cv::Vec3b>(row, column);
      for (int channel = 0; channel < 3; ++channel) {
        const float under = pixel[channel], over = drawn.at<cv::Vec3b>(row, column)[channel];
        pixel[channel] = static_cast<unsigned char>(std::nearbyint(under + weight * (over - under)));
      }
    }
  }
}

std::unique_ptr<Painter> make_generator_painter(std::unique_ptr<Session> session) {
  return std::make_unique<GeneratorPainter>(std::move(session));
}

}  // namespace genedge::faces
