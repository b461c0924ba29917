// Which detection is which face of the frames before, and how each face moves: runtime/faces/track.py.
//
// Association in passes, as ByteTrack (Zhang et al., 2022, arXiv:2110.06864) has them; motion is an alpha-beta filter
// with alpha = 1.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "faces/match.h"
#include "genedge/faces/types.hpp"

namespace genedge::faces {

constexpr double kJitter = 0.04;       // of the face's size: a difference to the prediction that is the detector's noise
constexpr double kSteadyGain = 0.35;   // of the velocity, once it is known; 1/k at the k-th difference before
constexpr int kTravel = 12;            // frames for which a velocity is trusted; then it fades
constexpr int kSmoothed = 7;           // sights to both sides that a sight is averaged with
constexpr double kMostNumber = 1e6;    // pixels; a coordinate beyond is no coordinate

// `dx`, `dy`: pixels a frame; `growth`: relative change of the sides a frame; `off`: pixels by which the latest
// predictions missed, beyond noise; `known`: how many differences it was learned from.
struct Motion {
  double dx = 0;
  double dy = 0;
  double growth = 0;
  double off = 0;
  int known = 0;
};

// A face as a detector saw it. `clock`: seconds. `steady`: its landmarks, smoothed with those before. `late`: found in
// the covered output.
struct Sight {
  int index = 0;
  double clock = 0;
  Box box;
  double score = 0;
  std::optional<Landmarks> landmarks;
  std::optional<Landmarks> steady;
  bool sure = false;
  Motion motion;
  bool late = false;
};

// A face that is followed within one shot. `sights`: the latest, oldest first, never empty. `matched`: by frame, where
// its picture was found without a detector; `blind`: it was not found since the last sight. `since`: the frame after
// which it covers anything, of a track that was left behind.
struct Track {
  int number = 0;
  int shot = 0;
  std::vector<Sight> sights;
  int seen = 0;
  double best = 0;
  std::map<int, Match> matched;
  int since = -1;
  bool blind = false;

  const Sight& last() const { return sights.back(); }

  // Pointers to sights hold until the next call that changes the track; null where there is none.
  struct Around {
    const Sight* before = nullptr;
    const Sight* here = nullptr;
    const Sight* after = nullptr;
  };
  // The latest sight before the frame `index`, the one in it, the next one after it.
  Around around(int index) const;
  // The sight in the frame `index`, or null.
  const Sight* at(int index) const;
  // Drop what frames from `index` on do not need.
  void forget_before(int index);
  // Where it should be in the frame `index`, later than the last sight.
  Box expected(int index) const;
  // How the face moved in the frames after `first`, for going back from it; `known` 0 where there is no later sight.
  Motion motion_from(const Sight& first) const;
  // Note a sight later than all before.
  void see(const Face& face, int index, double clock, bool sure, bool late = false);
};

using TrackPtr = std::shared_ptr<Track>;

// Geometric mean of the sides, at least one pixel.
double size_of(const Box& box);

// The box `steps` frames after `sight` at the motion known then.
Box predicted(const Sight& sight, int steps);

// `share` of the way from `one` to `other`.
Box between(const Box& one, const Box& other, double share);

// Landmarks of a face in `box` when the face is in `to`.
Landmarks carried(const Landmarks& landmarks, const Box& box, const Box& to);

// `track` and `face`: places in what was given to assign(). `jumped`: the face is neither where the track was expected
// nor where it was last, so it may be another person's.
struct Pair {
  int track;
  int face;
  bool jumped;
};

// Pairs of tracks and faces, each used once at most.
std::vector<Pair> assign(const std::vector<TrackPtr>& tracks, const std::vector<Face>& faces, int index, double high);

// `distance` of the centres in sizes of the larger one, `ratio` of the sizes (1 or more), intersection over union.
struct Compared {
  double distance;
  double ratio;
  double iou;
};
Compared compared(const Box& one, const Box& other);

}  // namespace genedge::faces
