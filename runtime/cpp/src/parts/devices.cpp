// Cameras, GStreamer pipelines and windows through OpenCV. See parts.hpp.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <numeric>
#include <opencv2/highgui.hpp>
#include <opencv2/videoio.hpp>
#include <thread>

#include "live.hpp"
#include "parts.hpp"
#include "parts/video_opencv.hpp"
#include "quiet.hpp"
#include "text.hpp"
#include "video_files.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

constexpr double kTimeout = 10.0;  // seconds that a camera may stay silent
constexpr std::int64_t kTicks = 90'000;

std::optional<Rational> rate_of(double fps) {
  if (!(fps > 0 && fps <= 1000)) return std::nullopt;
  for (const std::int64_t den : {1, 1001}) {
    const double num = fps * static_cast<double>(den);
    if (std::abs(num - std::round(num)) < 0.01) {
      const auto whole = static_cast<std::int64_t>(std::llround(num));
      const auto common = std::gcd(whole, den);
      return Rational{whole / common, den / common};
    }
  }
  return Rational{std::llround(fps * 1000), 1000};
}

/// A camera by index or device path, a CSI camera of a Jetson, or a GStreamer pipeline. Times are those of capture on
/// the steady clock: the driver's own where it tells one, else that of arrival.
class CameraSource : public Source {
 public:
  CameraSource(const SourceUri& uri, const SourceOptions& options) : uri_(uri) {
    if (uri.kind == SourceKind::camera) {
      open_device(options);
    } else {
      open_pipeline(options);
    }
    auto [captured, image] = grab();
    epoch_ = captured;
    first_ = std::pair(captured, image);
    info_.uri = uri.text;
    info_.size = image.size();
    info_.rate = rate_of(capture_.get(cv::CAP_PROP_FPS));
    info_.time_base = {1, kTicks};
    info_.live = true;
    const int fourcc = static_cast<int>(capture_.get(cv::CAP_PROP_FOURCC));
    for (int shift = 0; fourcc > 0 && shift < 32; shift += 8) info_.codec += static_cast<char>(fourcc >> shift & 0xFF);
    const cv::Size wanted(options.width ? options.width : image.cols, options.height ? options.height : image.rows);
    if (wanted != image.size()) {
      warnings_.push_back(uri.text + " gives " + std::to_string(image.cols) + "x" + std::to_string(image.rows) +
                          ", not the " + std::to_string(wanted.width) + "x" + std::to_string(wanted.height) +
                          " that was asked for");
    }
  }

  std::optional<VideoFrame> read() override {
    auto [captured, image] = first_ ? *first_ : grab();
    first_.reset();
    if (image.size() != info_.size) {
      throw VideoError("the camera " + uri_.text + " changed its frame size to " + std::to_string(image.cols) + "x" +
                       std::to_string(image.rows));
    }
    VideoFrame frame;
    frame.image = image;
    last_ = std::max<std::int64_t>(std::llround((captured - epoch_) * kTicks), last_ + 1);
    frame.pts = last_;
    frame.index = index_++;
    frame.captured = captured;
    return frame;
  }

 private:
  void open_device(const SourceOptions& options) {
    device_ = all_digits(uri_.target) ? "/dev/video" + uri_.target : uri_.target;
    if (!fs::exists(device_)) {
      throw VideoError("no camera at " + uri_.text + " (" + device_ +
                       " does not exist): `ls /dev/video*` shows the cameras of this machine");
    }
    {
      const QuietOpenCv quiet;
      capture_.open(device_, cv::CAP_V4L2);
    }
    if (!capture_.isOpened()) {
      throw VideoError("the camera " + uri_.text + " cannot be opened: is another program using it, may you read it?");
    }
    capture_.set(cv::CAP_PROP_BUFFERSIZE, 1);  // newest frame, not the oldest
    capture_.set(cv::CAP_PROP_READ_TIMEOUT_MSEC, kTimeout * 1000);
    if (options.fourcc.size() == 4) {  // first: which sizes and rates there are depends on it
      const auto& code = options.fourcc;
      capture_.set(cv::CAP_PROP_FOURCC, cv::VideoWriter::fourcc(code[0], code[1], code[2], code[3]));
    }
    if (options.width) capture_.set(cv::CAP_PROP_FRAME_WIDTH, options.width);
    if (options.height) capture_.set(cv::CAP_PROP_FRAME_HEIGHT, options.height);
    if (options.rate) capture_.set(cv::CAP_PROP_FPS, options.rate->value());
  }

  void open_pipeline(const SourceOptions& options) {
    // nobody waits for an old frame: the sink keeps the newest one, and the clock does not hold it back
    const std::string sink =
        "videoconvert ! video/x-raw, format=(string)BGR ! appsink max-buffers=1 drop=true sync=false";
    std::string pipeline(trimmed(uri_.target));
    if (uri_.kind == SourceKind::csi) {
      const Rational rate = options.rate.value_or(Rational{30, 1});
      pipeline = "nvarguscamerasrc sensor-id=" + uri_.target + " ! video/x-raw(memory:NVMM), width=(int)" +
                 std::to_string(options.width ? options.width : 1920) + ", height=(int)" +
                 std::to_string(options.height ? options.height : 1080) + ", framerate=(fraction)" +
                 std::to_string(rate.num) + "/" + std::to_string(rate.den) +
                 " ! nvvidconv ! video/x-raw, format=(string)BGRx ! " + sink;
    } else if (pipeline.find("appsink") == std::string::npos) {
      pipeline = pipeline.substr(0, pipeline.find_last_not_of("! ") + 1) + " ! " + sink;
    }
    const std::string info = cv::getBuildInformation();
    const auto line = info.find("GStreamer:");
    if (line == std::string::npos || info.substr(line, 40).find("YES") == std::string::npos) {
      throw VideoError(uri_.text + " needs an OpenCV with GStreamer, such as that of JetPack or of the system");
    }
    // OpenCV waits for ever for a pipeline with an element that is not installed
    auto capture = std::make_shared<cv::VideoCapture>();
    auto opened = std::make_shared<std::promise<bool>>();
    auto done = opened->get_future();
    std::thread([=] {
      const QuietOpenCv quiet;
      opened->set_value(capture->open(pipeline, cv::CAP_GSTREAMER));
    }).detach();
    if (done.wait_for(std::chrono::duration<double>(kTimeout)) != std::future_status::ready || !done.get()) {
      throw VideoError(uri_.text + " cannot be opened: see what GStreamer says: gst-launch-1.0 " + pipeline);
    }
    capture_ = std::move(*capture);
  }

  /// (capture in seconds of the steady clock, image).
  std::pair<double, cv::Mat> grab() {
    const double began = steady_seconds();
    cv::Mat image;
    {
      const QuietOpenCv quiet;
      capture_.read(image);
    }
    const double now = steady_seconds();
    if (!image.empty()) {
      const double stamp = device_.empty() ? 0.0 : capture_.get(cv::CAP_PROP_POS_MSEC) / 1000;
      // a driver's time that is further back than two seconds, or to come, is on another clock
      return {now - 2.0 < stamp && stamp <= now ? stamp : now, image};
    }
    if (!device_.empty() && !fs::exists(device_)) {
      throw VideoError("the camera " + uri_.text + " is gone: was it unplugged?");
    }
    if (now - began >= 0.5 * kTimeout) {
      throw VideoError("the camera " + uri_.text + " gave no frame for " + with_digits(now - began, 0) + " s");
    }
    throw VideoError("the camera " + uri_.text + " gives no frames: is another program using it?");
  }

  SourceUri uri_;
  std::string device_;  // where there is none any more, the camera was unplugged
  cv::VideoCapture capture_;
  std::optional<std::pair<double, cv::Mat>> first_;
  double epoch_ = 0;
  std::int64_t last_ = -1, index_ = 0;
};

/// A window, at the speed of the video. q, Esc or closing it stops the run.
class WindowSink : public Sink {
 public:
  WindowSink(cv::Size size, const SourceInfo& source) : size_(size), source_(source) {
    if (std::getenv("DISPLAY") == nullptr && std::getenv("WAYLAND_DISPLAY") == nullptr) {
      throw VideoError("no display here (DISPLAY is not set): write to a file instead, or to null:// to measure");
    }
  }

  void write(const VideoFrame& frame) override {
    check_size(frame.image, size_);
    wait_for(static_cast<double>(frame.pts) * source_.time_base.value());
    int key = -1;
    bool closed = false;
    try {
      if (!frames_written_) {
        cv::namedWindow(kTitle, cv::WINDOW_NORMAL);
        cv::resizeWindow(kTitle, size_);
      }
      cv::imshow(kTitle, frame.image);
      key = cv::waitKey(1) & 0xFF;
      closed = frames_written_ && cv::getWindowProperty(kTitle, cv::WND_PROP_VISIBLE) < 1;
    } catch (const cv::Exception& error) {
      throw VideoError("the window failed: " + error.err + ": write to a file instead, or to null:// to measure");
    }
    ++frames_written_;
    stop_ = stop_ || closed || key == 'q' || key == 'Q' || key == 27;
  }

  void close() override {
    if (frames_written_ && !std::exchange(closed_, true)) cv::destroyAllWindows();
  }

  bool stop_requested() const override { return stop_; }

 private:
  static constexpr const char* kTitle = "genedge (q stops)";

  /// Files are shown no faster than they were filmed; a late frame moves the clock.
  void wait_for(double pts) {
    const double now = steady_seconds();
    if (source_.live || !zero_ || *zero_ + pts < now) zero_ = now - pts;
    const double wait = *zero_ + pts - now;
    if (wait > 0.001) std::this_thread::sleep_for(std::chrono::duration<double>(wait));
  }

  cv::Size size_;
  SourceInfo source_;
  std::optional<double> zero_;
  bool stop_ = false, closed_ = false;
};

/// A GStreamer pipeline behind an appsrc, such as an encoder of a Jetson or an RTSP client.
class GStreamerSink : public Sink {
 public:
  GStreamerSink(const SinkUri& uri, const SourceInfo& source, cv::Size size) : size_(size) {
    std::string pipeline(trimmed(uri.target));
    if (pipeline.find("appsrc") == std::string::npos) {
      pipeline = "appsrc ! videoconvert ! " + pipeline.substr(pipeline.find_first_not_of("! "));
    }
    writer_.open(pipeline, cv::CAP_GSTREAMER, 0, source.rate ? source.rate->value() : 30.0, size, true);
    if (!writer_.isOpened()) {
      throw VideoError(uri.text + " cannot be opened: does this OpenCV have GStreamer, and are all elements there? " +
                       pipeline);
    }
  }

  void write(const VideoFrame& frame) override {
    check_size(frame.image, size_);
    writer_.write(frame.image);
    ++frames_written_;
  }

  void close() override { writer_.release(); }

 private:
  cv::Size size_;
  cv::VideoWriter writer_;
};

std::unique_ptr<Source> camera(const SourceUri& uri, const SourceOptions& options) {
  return std::make_unique<CameraSource>(uri, options);
}

std::unique_ptr<Sink> window(cv::Size size, const SourceInfo& source) {
  return std::make_unique<WindowSink>(size, source);
}

std::unique_ptr<Sink> pipeline(const SinkUri& uri, const SourceInfo& source, cv::Size size) {
  return std::make_unique<GStreamerSink>(uri, source, size);
}

}  // namespace
}  // namespace genedge

extern "C" const genedge::DeviceParts* genedge_devices();

const genedge::DeviceParts* genedge_devices() {
  using namespace genedge;
  static const DeviceParts parts = {camera, window, pipeline, opencv_video, opencv_video_sink};
  return &parts;
}
