// A source that gives covered frames only: whatever comes after it never sees a face. As runtime/faces/deid.py.
//
//     source -> detector -> guard (look-ahead) -> method -> check of the result -> frame
//
// It fails closed. A frame leaves with a verdict that was made for its own index and says OK; in every other case, an
// engine that fails or hangs, a number that is none, a verdict for another frame, a frame that the decoder could not
// read whole, it is covered whole.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "genedge/faces/detect.hpp"
#include "genedge/faces/guard.hpp"
#include "genedge/faces/methods.hpp"
#include "genedge/video.hpp"

namespace genedge::faces {

/// How carefully it is done. `timeout`: seconds that the engines may take for a frame before it is covered whole.
/// `recheck`: look for faces in every covered frame again. `thorough_every`: seconds between two frames that are
/// searched at more scales, besides the first of every shot; 0 for those only. `canary`: ask every second whether the
/// detector still finds a face.
struct DeidSettings {
  GuardSettings guard;
  double timeout = 10.0;
  bool recheck = true;
  double thorough_every = 1.0;
  bool canary = true;
};

/// How often something was, by its name, in the order in which it came first.
using Tally = std::vector<std::pair<std::string, int>>;

/// Sums over all frames that were released; the fields are those of Python's report.
struct DeidCounts {
  int frames = 0;
  int faces = 0;
  int cuts = 0;
  int canaries = 0;
  int canaries_missed = 0;
  int rechecks = 0;
  std::array<int, kCoverKinds> kinds{};
  Tally methods;
  Tally fallbacks;
  Tally covered_whole;  // frames, by the reason
  std::vector<std::pair<int, int>> whole_frames;  // first and last of each run

  int covered_whole_frames() const;
};

/// Wraps a source. `warnings` and `dropped` are those of the source.
class DeidentifiedSource : public Source {
 public:
  /// `checker`: searches the result, in a thread of its own unless it is `detector`; null: `detector` does, and at all
  /// scales every time. When `source` breaks off, the frames that are still held are given first, then its error.
  DeidentifiedSource(std::unique_ptr<Source> source, std::shared_ptr<FaceDetector> detector,
                     std::unique_ptr<Method> method, const DeidSettings& settings = {},
                     std::shared_ptr<FaceDetector> checker = nullptr);
  ~DeidentifiedSource() override;

  std::optional<VideoFrame> read() override;
  void interrupt() override;
  std::int64_t dropped() const override;
  std::vector<std::string> warnings() const override;

  /// Grows while it runs.
  const DeidCounts& counts() const;
  /// Tells about the tracks at the end.
  const Guard& guard() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// The share of the pixels of `box`, 0 to 1, that are replaced where `regions` are covered, soft edges not counted; 1
/// where a frame of `size` has no pixel of it.
double replaced_share(const Box& box, const std::vector<Box>& regions, cv::Size size);

}  // namespace genedge::faces
