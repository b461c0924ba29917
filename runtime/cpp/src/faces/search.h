// How a frame is searched for faces: which parts of it at which sizes, and what the heads of the net say. The logic of
// runtime/faces/detect.py without an engine.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

#include "genedge/faces/types.hpp"

namespace genedge::faces {

// Box as left, top, width, height; five landmarks; score.
using Row = std::array<float, 15>;
using Rows = std::vector<Row>;

// One look at a frame: the rectangle (left, top, right, bottom) of it, enlarged by `factor`, then turned (a code of
// cv::rotate) or mirrored.
struct Pass {
  int left, top, right, bottom;
  double factor;
  std::optional<int> turn;
  bool mirror = false;

  // Height and width of the picture before it is turned.
  cv::Size size() const;
  // What the net gets, CV_8UC3, sides multiples of 32, the rest grey.
  cv::Mat picture(const cv::Mat& image) const;
  // Faces of the picture in pixels of the frame.
  Rows back(Rows rows) const;
  // Without the faces that the edge of a tile cuts, where the frame goes on: the next tile has all of them.
  Rows whole(const Rows& rows, cv::Size frame) const;

  bool operator==(const Pass& other) const {
    return left == other.left && top == other.top && right == other.right && bottom == other.bottom &&
           factor == other.factor && turn == other.turn && mirror == other.mirror;
  }
};

// How a frame is looked at. The first two are those of the whole frame.
std::vector<Pass> passes_for(cv::Size frame, bool thorough);

// Looks that a normal search needs besides its own to see the faces that only a thorough one has found. `rows`: the
// faces of the frame, each one of `found` by `passes`; `normal`: the passes of a normal search.
std::vector<Pass> closer_looks(const Rows& rows, const std::vector<Pass>& passes, const std::vector<Rows>& found,
                               const std::vector<Pass>& normal, cv::Size frame);

// An output of the net: `count` floats.
struct Head {
  const float* values = nullptr;
  std::int64_t count = 0;
};

// cls_8 and so on; see kHeadNames.
using Heads = std::map<std::string, Head>;

// The names of a detector's outputs.
const std::vector<std::string>& head_names();

// Faces of one picture of `size` (multiples of 32) with a score of at least `low`. Throws Error where a head has
// another size or holds a number that is none; `who` is named where the model is another.
Rows decode(const Heads& heads, cv::Size size, double low, const std::string& who);

// Each face once, the best of those that overlap, best first. Throws Error for more than 500 faces: to leave some out
// would be to leave them open.
Rows merged(Rows rows);

// The faces of `rows`.
std::vector<Face> faces_of(const Rows& rows);

// Score from which a face in a turned picture counts: many there are none.
inline constexpr double kTurnedLow = 0.7;

}  // namespace genedge::faces
