// What the parts of the face pipeline hand to each other, as runtime/faces/types.py has it.
//
//     detector -> Face -> guard -> Verdict of Covers -> method -> covered frame
//
// Coordinates are pixels of the upright frame, x to the right, y down, and may lie outside of it: a face that the
// border cuts keeps its true box. Nothing here keeps pixels.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <opencv2/core.hpp>

namespace genedge::faces {

struct Point {
  float x = 0;
  float y = 0;
};

/// The person's right eye, left eye, tip of the nose, right and left corner of the mouth, in pixels.
using Landmarks = std::array<Point, 5>;

/// Order of the landmarks of a face that is seen in a mirror.
constexpr std::array<int, 5> kMirrored = {1, 0, 2, 4, 3};

/// A rectangle: left, top, width and height in pixels.
struct Box {
  double x = 0;
  double y = 0;
  double width = 0;
  double height = 0;

  std::pair<double, double> center() const { return {x + width / 2, y + height / 2}; }
  double area() const;
  /// About its centre, `across` times as wide and `down` times as high.
  Box scaled(double across, double down) const;
  Box scaled(double factor) const { return scaled(factor, factor); }
  Box moved(double dx, double dy) const { return {x + dx, y + dy, width, height}; }
  /// The smallest box that holds both.
  Box united(const Box& other) const;
  /// Area that both cover, in square pixels.
  double intersection(const Box& other) const;
  /// Intersection over union, 0 to 1.
  double iou(const Box& other) const;
};

inline bool operator==(const Box& one, const Box& other) {
  return one.x == other.x && one.y == other.y && one.width == other.width && one.height == other.height;
}

/// By left, top, width, height.
bool operator<(const Box& one, const Box& other);

/// A detection in one frame: the box of the face from forehead to chin, its score 0..1, and its landmarks.
struct Face {
  Box box;
  double score = 0;
  std::optional<Landmarks> landmarks;
};

/// Why a region is covered: found in this very frame; kept after the last sight of it; covered before its first sight;
/// between two sights; found in the covered output.
enum class CoverKind { detected, held, filled, interpolated, rechecked };

constexpr int kCoverKinds = 5;

/// Such as "held", the name that reports use.
const char* name_of(CoverKind kind);

/// One face of one frame that has to be replaced. `box` is where the face is taken to be; the ellipse inscribed in
/// `region` is replaced entirely. `sure`: good enough for a method that draws a face.
struct Cover {
  int track = 0;
  Box box;
  Box region;
  CoverKind kind = CoverKind::detected;
  double score = 0;
  std::optional<Landmarks> landmarks;
  bool sure = false;
};

/// What was decided about the frame `index`, and nothing else lets a frame out. Unless `ok`, the frame is covered
/// whole, and `reason` says why in a few words.
struct Verdict {
  int index = 0;
  bool ok = false;
  std::vector<Cover> covers;
  std::string reason;
};

/// What a method did to one cover; `reason` where `method` is not the one asked for.
struct Applied {
  int track = 0;
  std::string method;
  std::string reason;
};

/// Left, top, right and bottom (exclusive) in pixels.
struct Window {
  int left = 0;
  int top = 0;
  int right = 0;
  int bottom = 0;

  bool empty() const { return right <= left || bottom <= top; }
  int width() const { return right - left; }
  int height() const { return bottom - top; }
  cv::Rect rect() const { return {left, top, right - left, bottom - top}; }
};

/// Width in pixels of the soft edge outside of a region: a tenth of its shorter side, at least 1, at most 24.
double feather_of(const Box& region);

/// The pixels that covering `region` may change, feather included, cut to a frame of `width` x `height`; empty where it
/// lies outside.
Window changed_window(const Box& region, int width, int height);

/// The same in a frame without borders.
Window uncut_window(const Box& region);

}  // namespace genedge::faces
