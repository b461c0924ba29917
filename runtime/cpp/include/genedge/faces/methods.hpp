// The ways to replace a face: a flat colour, a mosaic, a blur, a face of nobody, or the face of a generator. As
// runtime/faces/methods.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

#include "genedge/faces/types.hpp"

namespace genedge::faces {

/// What can be put in place of a face.
inline constexpr const char* kMethods[] = {"average", "generator", "solid", "mosaic", "blur"};

/// Secrets of one recording, a different one for every track.
class TrackKeys {
 public:
  virtual ~TrackKeys() = default;
  /// A number from 0 to `below` - 1, the same for the same passcode, recording and track.
  virtual std::uint64_t number(int track, std::uint64_t below) const = 0;
  /// `count` bits, the same for the same passcode, recording and track.
  virtual std::vector<bool> bits(int track, int count) const = 0;
};

/// Draws the face of somebody who does not exist. Used by one thread at a time.
class Painter {
 public:
  virtual ~Painter() = default;
  /// Take the light of a new frame from its pixels where `mask` is 0. Called once for each frame.
  virtual void look(const cv::Mat& /*image*/, const cv::Mat& /*mask*/) {}
  /// Draw the face for `cover`, which has landmarks, into `target` in place. `original` and `target` are CV_8UC3 of the
  /// same size: a window of the frame around the face, as it was, and with the face already removed; nothing of
  /// `original` may be copied. After an exception of any kind the face is replaced by a flat colour instead.
  virtual void paint(const cv::Mat& original, cv::Mat& target, const Cover& cover, const TrackKeys& keys) = 0;
};

/// Replaces faces. Used by one thread at a time.
class Method {
 public:
  virtual ~Method() = default;
  virtual const std::string& name() const = 0;
  /// Replace every cover in `image`, CV_8UC3 BGR, in place, and say what was done, one for each cover.
  ///
  /// No pixel inside the ellipse of a region keeps its value or a value that tells more than the method allows. The
  /// feather lies outside of the regions. A method that cannot do one cover uses solid for it.
  virtual std::vector<Applied> apply(cv::Mat& image, const std::vector<Cover>& covers) = 0;
};

/// The method called `name`, one of kMethods. `keys` are used by average and generator, `painter` by generator.
/// Throws UsageError for another name, or where the painter is missing.
std::unique_ptr<Method> make_method(const std::string& name, std::shared_ptr<const TrackKeys> keys = nullptr,
                                    std::unique_ptr<Painter> painter = nullptr);

/// Replace all of `image` by one flat colour that tells nothing about it, in place.
void cover_whole(cv::Mat& image);

}  // namespace genedge::faces
