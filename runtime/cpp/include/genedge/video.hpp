// Where frames come from and where they go. One string names any of them, as in `python -m runtime`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

#include "genedge/error.hpp"

namespace genedge {

/// A fraction in lowest terms; `den` is positive.
struct Rational {
  std::int64_t num = 0;
  std::int64_t den = 1;

  double value() const { return static_cast<double>(num) / static_cast<double>(den); }
};

/// One picture and its time.
///
/// `image`: CV_8UC3 BGR, upright, full range, owned by whoever received the frame. `pts`: time since the first frame, in
/// ticks of the source's time base. `duration`: ticks, 0 where it is not known. `gap`: something is missing in front of
/// it. `captured`: seconds of the steady clock at which a live source took it.
struct VideoFrame {
  cv::Mat image;
  std::int64_t pts = 0;
  std::int64_t duration = 0;
  std::int64_t index = 0;
  bool gap = false;
  bool damaged = false;
  std::optional<double> captured;
};

/// How a video's pixels mean colour; codes of ITU-T H.273, 2 where it is not known. `stated`: the file names its matrix;
/// else it is the one that players assume.
struct ColorInfo {
  int matrix = 2;
  bool full_range = true;
  int primaries = 2;
  int transfer = 2;
  bool stated = true;
};

/// What is known about a source when it opens. `rate`: frames a second. `frame_count`: what the file says. `start`:
/// ticks on the file's own clock at which the first frame is shown; its sound uses the same clock.
struct SourceInfo {
  std::string uri;
  cv::Size size;
  std::optional<Rational> rate;
  Rational time_base{1, 90000};
  std::optional<std::int64_t> frame_count;
  bool live = false;
  std::string path;  // of a file; empty for anything else
  std::int64_t start = 0;
  int rotation = 0;  // degrees clockwise that were applied
  Rational sample_aspect{1, 1};
  std::optional<ColorInfo> color;
  std::string codec;
  std::vector<std::string> audio;  // codecs of its sound tracks
};

/// Gives frames one after the other, to one thread.
class Source {
 public:
  virtual ~Source() = default;

  const SourceInfo& info() const { return info_; }
  /// The next frame, or nothing at the end. Throws EndedEarlyError (all frames before were given) or VideoError.
  virtual std::optional<VideoFrame> read() = 0;
  /// Called from any thread: a `read` that waits for a live source soon gives nothing, as do all later ones.
  virtual void interrupt() {}
  /// Frames that a live source has left out.
  virtual std::int64_t dropped() const { return 0; }
  /// Sentences about what was mended on the way; read them at the end.
  virtual std::vector<std::string> warnings() const { return warnings_; }

 protected:
  SourceInfo info_;
  std::vector<std::string> warnings_;
};

/// Takes frames one after the other, from one thread.
class Sink {
 public:
  virtual ~Sink() = default;

  /// Take a frame whose image has the sink's size. Throws VideoError where it cannot be written.
  virtual void write(const VideoFrame& frame) = 0;
  /// Finish: files get their final name here. Calling it twice is harmless.
  virtual void close() = 0;
  /// Stop early: what was written becomes a playable file that ends there; if nothing was, nothing is left.
  virtual void abort() { close(); }
  /// The viewer has closed the window.
  virtual bool stop_requested() const { return false; }
  std::int64_t frames_written() const { return frames_written_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

 protected:
  std::int64_t frames_written_ = 0;
  std::vector<std::string> warnings_;
};

/// Wishes for a source; each is used only where it means something. 0 or empty: none.
struct SourceOptions {
  int width = 0;
  int height = 0;
  std::optional<Rational> rate;
  std::string fourcc;
  bool realtime = false;     // play a file at its own rate as a camera would
  double max_latency = 0.0;  // seconds; frames of live sources that are older than this are dropped
};

struct SinkOptions {
  bool overwrite = false;
  std::string codec;  // h264 | hevc | vp9; empty: what suits the file
  std::optional<double> crf;
  std::string preset = "light";  // of x264; others take it as veryfast
  bool audio = true;
  bool keep_partial = false;  // a video file that is not complete keeps `.partial` at the end of its name
  std::string dump_raw;  // a file that gets every frame as raw bytes (height * width * 3, BGR) before it is encoded
};

/// Open INPUT and decode as far as its first frame; live sources give their newest frame.
/// Throws UsageError for what cannot be right, VideoError for what cannot be read.
std::unique_ptr<Source> open_source(const std::string& text, const SourceOptions& options = {});

/// Find out, before anything is opened, whether OUTPUT can be written. Throws UsageError where it cannot.
void check_sink(const std::string& text, bool overwrite, const SourceInfo* source = nullptr);

/// Open OUTPUT for frames of `size` that come from `source`.
std::unique_ptr<Sink> open_sink(const std::string& text, const SourceInfo& source, cv::Size size,
                                const SinkOptions& options = {});

}  // namespace genedge
