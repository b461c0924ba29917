#include "faces/average.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <nlohmann/json.hpp>
#include <opencv2/imgproc.hpp>

#include "faces/align.h"
#include "faces/blend.h"
#include "genedge/error.hpp"
#include "video_files.hpp"

// the bank is part of the program, so that it is there wherever the program is
#define GENEDGE_EMBED(name, path)                                                                     \
  __asm__(".section .rodata\n.balign 16\n.global " #name "\n.hidden " #name "\n" #name ":\n.incbin \"" path \
          "\"\n.global " #name "_end\n.hidden " #name "_end\n" #name "_end:\n.byte 0\n.previous\n");   \
  extern "C" const unsigned char name[], name##_end[]
GENEDGE_EMBED(genedge_average_png, GENEDGE_FACES_DATA "/average_faces.png");
GENEDGE_EMBED(genedge_average_json, GENEDGE_FACES_DATA "/average_faces.json");

namespace genedge::faces {
namespace {

constexpr int kLevels = 4;            // sizes in which each face is kept: full, a half, a quarter, an eighth
constexpr int kForget = 100;          // frames after which the colours of a track that was not drawn are forgotten
constexpr double kSmoothing = 0.1;    // share of a new frame in the colours of a track
constexpr double kDaylight = 118.0;   // mean brightness of a scene in which a face keeps the brightness of the bank
constexpr int kSamples = 48;          // pixels across and down on which the scene is judged, at most

std::vector<AverageFace> read_bank() {
  const auto facts = nlohmann::json::parse(genedge_average_json, genedge_average_json_end);
  const cv::Mat sheet = decoded_png(genedge_average_png,
                                    static_cast<std::size_t>(genedge_average_png_end - genedge_average_png));
  const int width = facts["width"], height = facts["height"], columns = facts["columns"], count = facts["count"];
  const cv::Size expected(columns * width, (count + columns - 1) / columns * height);
  if (sheet.type() != CV_8UC4 || sheet.size() != expected) {
    throw Error("the average faces cannot be read: this build has no PNG decoder");
  }
  std::vector<AverageFace> faces(static_cast<std::size_t>(count));
  for (int index = 0; index < count; ++index) {
    AverageFace& face = faces[static_cast<std::size_t>(index)];
    face.levels.push_back(sheet(cv::Rect(index % columns * width, index / columns * height, width, height)).clone());
    for (int level = 1; level < kLevels; ++level) {
      cv::Mat half;
      cv::resize(face.levels.back(), half, face.levels.back().size() / 2, 0, 0, cv::INTER_AREA);
      face.levels.push_back(half);
    }
    for (std::size_t place = 0; place < face.landmarks.size(); ++place) {
      face.landmarks[place] = {facts["landmarks"][place][0].get<float>(), facts["landmarks"][place][1].get<float>()};
    }
  }
  return faces;
}

// `face` under `matrix` (its first level to pixels), cut to `window`: CV_8UC4, 0 where it is not.
cv::Mat placed(const AverageFace& face, const Affine& matrix, const Window& window) {
  // the smallest level that still has at least the pixels that are shown
  const double scale = std::sqrt(growth(matrix));
  const double fitting = std::floor(-std::log2(std::max(scale, 1e-6)));
  const int level = static_cast<int>(std::clamp(fitting, 0.0, kLevels - 1.0));
  const double step = 1 << level, shift = (step - 1) / 2;
  // landmarks count pixel centres as whole numbers; a pixel of the level is the mean of step x step of the first
  const Affine whole(matrix(0, 0) * step, matrix(0, 1) * step,
                     matrix(0, 0) * shift + matrix(0, 1) * shift + matrix(0, 2) - window.left, matrix(1, 0) * step,
                     matrix(1, 1) * step, matrix(1, 0) * shift + matrix(1, 1) * shift + matrix(1, 2) - window.top);
  return warped(face.levels[static_cast<std::size_t>(level)], whole, {window.width(), window.height()});
}

// BGR of `image` (CV_8UC4) with the gains of `tone`, and as much of its colour as the last number says.
cv::Mat coloured(const cv::Mat& image, const cv::Vec4d& tone) {
  cv::Mat table(1, 256, CV_8UC3);
  for (int level = 0; level < 256; ++level) {
    for (int channel = 0; channel < 3; ++channel) {
      table.at<cv::Vec3b>(0, level)[channel] =
          static_cast<unsigned char>(std::clamp(std::nearbyint(level * tone[channel]), 0.0, 255.0));
    }
  }
  cv::Mat out;
  cv::cvtColor(image, out, cv::COLOR_BGRA2BGR);
  cv::LUT(out, table, out);
  if (tone[3] < 1) {
    cv::Mat grey;
    cv::cvtColor(out, grey, cv::COLOR_BGR2GRAY);
    cv::cvtColor(grey, grey, cv::COLOR_GRAY2BGR);
    cv::addWeighted(out, tone[3], grey, 1 - tone[3], 0, out);
  }
  return out;
}

// Linear between the two nearest of the sorted `values`.
double percentile(std::vector<unsigned char>& values, double share) {
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  std::sort(values.begin(), values.end());
  const double low = values[below], high = values[std::min(below + 1, values.size() - 1)];
  return low + (high - low) * (place - static_cast<double>(below));
}

}  // namespace

const std::vector<AverageFace>& average_faces() {
  static const std::vector<AverageFace> faces = read_bank();
  return faces;
}

void AveragePainter::look(const cv::Mat& image, const cv::Mat& mask) {
  ++count_;
  for (auto entry = tracks_.begin(); entry != tracks_.end();) {
    entry = count_ - entry->second.used < kForget ? std::next(entry) : tracks_.erase(entry);
  }
  const int down = (mask.rows + kSamples - 1) / kSamples, across = (mask.cols + kSamples - 1) / kSamples;
  std::vector<unsigned char> spreads;
  cv::Vec3d sum(0, 0, 0);
  for (int row = down / 2; row < mask.rows; row += down) {
    for (int column = across / 2; column < mask.cols; column += across) {
      if (mask.at<unsigned char>(row, column) != 0) continue;
      const auto& pixel = image.at<cv::Vec3b>(row, column);
      const auto [least, most] = std::minmax({pixel[0], pixel[1], pixel[2]});
      spreads.push_back(static_cast<unsigned char>(most - least));
      sum += cv::Vec3d(pixel[0], pixel[1], pixel[2]);
    }
  }
  if (spreads.empty()) {
    scene_mean_ = kNeutral;
    scene_colour_ = 1.0;
    return;
  }
  scene_mean_ = sum / static_cast<double>(spreads.size());
  scene_colour_ = colour_share(percentile(spreads, 0.95));  // of the most colourful twentieth
}

void AveragePainter::paint(const cv::Mat& /*original*/, cv::Mat& target, const Cover& cover, const TrackKeys& keys) {
  const Window window = changed_window(cover.region, target.cols, target.rows);
  const auto& faces = average_faces();
  const AverageFace& face = faces[keys.number(cover.track, faces.size())];
  cv::Mat part = target(window.rect());
  const Tone tone = tone_of(cover.track, part);
  const cv::Mat drawn = placed(face, placement(face.landmarks, cover.landmarks.value()), window);
  cv::Mat shown;
  cv::extractChannel(drawn, shown, 3);
  mixed(part, coloured(drawn, tone), shown).copyTo(part);
}

// Cautious, as hair, clothes and walls are not skin: the square root of how much darker it is than daylight, a third of
// how much warmer, within limits.
AveragePainter::Tone AveragePainter::tone_of(int track, const cv::Mat& around) {
  const cv::Scalar near = cv::mean(around);  // the face is gone from it: it holds its surroundings, continued
  cv::Vec3d light;
  for (int channel = 0; channel < 3; ++channel) {
    light[channel] = std::max(1.0, (near[channel] + scene_mean_[channel]) / 2);
  }
  const double bright = light[0] * 0.114 + light[1] * 0.587 + light[2] * 0.299;
  const double gain = std::clamp(std::sqrt(bright / kDaylight), 0.6, 1.15);
  const double warm = std::clamp(std::pow((light[2] + 16) / (light[0] + 16), 1.0 / 6), 0.88, 1.14);
  Tone wanted(gain / warm, gain, gain * warm, scene_colour_);
  if (const auto state = tracks_.find(track); state != tracks_.end()) {
    wanted = state->second.tone + kSmoothing * (wanted - state->second.tone);
  }
  tracks_[track] = {wanted, count_};
  return wanted;
}

}  // namespace genedge::faces
