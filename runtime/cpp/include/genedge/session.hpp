// A generator that is ready to run frames: frame, codes and states in, image out, whatever the engine is.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

#include "genedge/bundle.hpp"
#include "genedge/engine.hpp"

namespace genedge {

/// A result that is on its way. `wait` returns when it is there, or throws the engine's error; call it once.
using Pending = std::function<void()>;

/// A generator that is ready to run frames of one size after the other.
///
/// The session reads `frame` and writes `out` until `Pending` has returned; both belong to the caller. A change of the
/// frames' size is allowed between requests. `submit`, `set_code` and `reset` are called from one thread; the results
/// may be waited for in another one, in the order of `submit`.
class Session {
 public:
  virtual ~Session() = default;

  virtual EngineInfo info() const = 0;
  /// Requests that may be under way at once; `submit` blocks while there are as many.
  virtual int in_flight() const = 0;
  virtual int scale() const = 0;
  /// The rule of every code by its port's name; empty for a generator that takes nothing but frames.
  virtual const std::map<std::string, Code>& codes() const = 0;
  /// Give a code these numbers, for the frames that are submitted from now on. A map has them everywhere.
  /// Throws UsageError where there is no such code, or its rule does not allow the numbers.
  virtual void set_code(const std::string& name, const std::vector<double>& values) = 0;
  /// Set all codes at once: those that `values` does not name get their default.
  virtual void set_codes(const std::map<std::string, std::vector<double>>& values) = 0;
  /// Start a request for one frame; `out` is made for `scale` times its size where it is not that already.
  virtual Pending submit(const cv::Mat& frame, cv::Mat& out) = 0;
  /// Frames that are submitted from now on know nothing of those before.
  virtual void reset() = 0;

  /// Run a batch of frames, one after the other, and wait for the images.
  std::vector<cv::Mat> infer(const std::vector<cv::Mat>& frames);
  cv::Mat infer(const cv::Mat& frame);
  /// Specialise to frames of `size`, which takes longest of what there is to do before the first one. Resets.
  virtual void prepare(cv::Size size) = 0;
  /// Specialise to frames of `size` and run once, so that no frame is slower than the others. Resets.
  virtual void warm_up(cv::Size size);
};

/// Backends that were compiled in and work on this device, best first.
std::vector<std::string> available_backends();

/// Pick engine and variant. Throws Error where the device or the bundle cannot serve it, UsageError for unknown names.
Choice choose(const Bundle& bundle, const std::string& backend = "auto", const std::string& precision = "auto");

/// Every choice that can run on this device with the bundle's artifacts.
std::vector<Choice> runnable(const Bundle& bundle);

/// The chosen variant in its engine: for face detectors and others that read the graph's outputs by name.
std::unique_ptr<Engine> open_engine(const Bundle& bundle, const Choice& choice, const EngineOptions& options = {});

/// `in_flight` and `engine.streams` are chosen by `open_stage`: where somebody waits for each frame (`live`), one stream
/// for the shortest time a frame, else two for the most frames a second.
struct SessionOptions {
  EngineOptions engine;
  int in_flight = 2;
  bool live = false;
  std::string image;  // which of several, empty for the main one
};

/// Load the chosen variant into its engine, for frames that keep the bundle's size rule.
std::unique_ptr<Session> open_session(const Bundle& bundle, const Choice& choice, const SessionOptions& options = {});

/// As `open_session`, for frames of `size`: padded, tiled or resized as the manifest's geometry says.
/// `tile`: side of the tiles in pixels, 0 for whole frames, -1 to choose. Throws UsageError where that cannot be.
std::unique_ptr<Session> open_stage(const Bundle& bundle, const Choice& choice, cv::Size size, int tile = -1,
                                    const SessionOptions& options = {});

}  // namespace genedge
