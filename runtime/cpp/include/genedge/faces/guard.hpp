// Memory over time, so that no face slips through for a frame or two: runtime/faces/guard.py, which says what is
// covered when, and how far that reaches.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

#include "genedge/faces/types.hpp"

namespace genedge::faces {

/// How much is covered beyond what was seen. `lookahead`: frames that wait for later ones, 0 for live. `hold`: seconds
/// that a face stays covered after its last sight. `grow`: relative growth of its region a frame without a sight. `low`:
/// score that covers. `high`: score that permits drawing a face. `across`, `down`: size of the region over that of the
/// face's box. `smallest_sure`: pixels, shorter side of a face that may be drawn.
struct GuardSettings {
  int lookahead = 12;
  double hold = 0.8;
  double grow = 0.03;
  double low = 0.25;
  double high = 0.6;
  double across = 1.6;
  double down = 1.8;
  double smallest_sure = 24.0;

  /// Throws UsageError for values that would leave faces uncovered or mean nothing.
  void check() const;
};

/// A track, for the report: frames `first` to `last` in which it was covered, and how many of them why. `uncertain`: it
/// was never seen with a high score, or in fewer than three frames.
struct TrackSummary {
  int track = 0;
  int first = 0;
  int last = 0;
  int seen = 0;
  int held = 0;
  int filled = 0;
  int interpolated = 0;
  double best_score = 0;
  bool uncertain = false;
};

/// Frames are pushed in order, each once, and each gets one verdict, in the same order. Keeps at most lookahead + 3 grey
/// copies of frames and no frame itself. Used by one thread at a time.
class Guard {
 public:
  /// Throws UsageError as GuardSettings::check().
  explicit Guard(const GuardSettings& settings = {});
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  /// Take the frame `index` with its faces. `pts`: seconds; where they do not advance, the frame is taken to come after
  /// the usual time. `image`: CV_8UC3 BGR, of which a small grey copy is kept; empty: faces are not found by their
  /// picture. A number among `faces` that is none, or more than 1000 of them: as fail(). `cut`: it is the first frame of
  /// another shot. Throws std::logic_error where `index` is not above the last one, or after finish().
  void push(int index, double pts, const cv::Mat& image, const std::vector<Face>& faces, bool cut = false);

  /// Take a frame that cannot be judged: its verdict is not ok, for `reason`.
  void fail(int index, double pts, const cv::Mat& image, const std::string& reason, bool cut = false);

  /// No more frames come: those that wait are decided.
  void finish();

  /// A face was found in the covered frame `index`, whose verdict was given. Returns what has to be covered there; the
  /// face is followed from there on.
  Cover add_late(int index, const Face& face);

  /// The verdict on the oldest frame, once `lookahead` later ones, a cut or the end have come; else nothing.
  std::optional<Verdict> pop();

  /// Of what was covered in the frames whose verdicts were given, in the order of the first sight.
  std::vector<TrackSummary> tracks() const;

  const GuardSettings& settings() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace genedge::faces
