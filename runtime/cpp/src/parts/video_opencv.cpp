// Video files through OpenCV, where FFmpeg's headers were not found: no sound, a constant rate, and colours rounded as
// OpenCV does it, which is up to some steps from Python's.

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <opencv2/videoio.hpp>

#include "parts/video_opencv.hpp"
#include "text.hpp"
#include "video_files.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

class OpenCvSource : public Source {
 public:
  explicit OpenCvSource(const SourceUri& uri) {
    if (uri.kind == SourceKind::standard_input) {
      throw UsageError("standard input needs a genedge-run that was built with FFmpeg: give a file");
    }
    if (uri.kind == SourceKind::file) check_video_file(uri);
    capture_.open(uri.target);
    if (!capture_.isOpened()) throw VideoError(uri.text + " cannot be opened as video (is it complete?)");
    if (!capture_.read(first_)) throw VideoError(uri.text + " holds no video frame");
    info_.uri = uri.text;
    info_.size = first_.size();
    const double fps = capture_.get(cv::CAP_PROP_FPS);
    info_.rate = fps > 0 && fps <= 1000 ? Rational{static_cast<std::int64_t>(fps * 1000 + 0.5), 1000} : Rational{25, 1};
    info_.time_base = {info_.rate->den, info_.rate->num};
    const auto count = static_cast<std::int64_t>(capture_.get(cv::CAP_PROP_FRAME_COUNT));
    if (count > 0) info_.frame_count = count;
    info_.live = uri.kind == SourceKind::network && count <= 0;
    if (uri.kind == SourceKind::file) info_.path = uri.target;
  }

  std::optional<VideoFrame> read() override {
    VideoFrame frame;
    frame.image = std::move(first_);
    first_ = cv::Mat();
    if (frame.image.empty() && !capture_.read(frame.image)) {
      if (info_.frame_count && index_ < *info_.frame_count - std::max<std::int64_t>(2, *info_.frame_count / 50)) {
        throw EndedEarlyError(info_.uri + ": broke off after frame " + std::to_string(index_) + " of " +
                              std::to_string(*info_.frame_count));
      }
      return std::nullopt;
    }
    frame.pts = frame.index = index_++;
    frame.duration = 1;
    return frame;
  }

 private:
  cv::VideoCapture capture_;
  cv::Mat first_;
  std::int64_t index_ = 0;
};

class OpenCvSink : public Sink {
 public:
  OpenCvSink(const SinkUri& uri, const SourceInfo& source, cv::Size size, const SinkOptions& options)
      : final_(uri.target),
        unfinished_(options.keep_partial ? fs::path(uri.target + kPartial) : final_),
        temporary_(final_.parent_path() / ("." + final_.stem().string() + ".part" + final_.extension().string())) {
    const Encoding encoding = encoding_for(uri, options);
    const int fourcc = encoding.codec == "vp9"    ? cv::VideoWriter::fourcc('V', 'P', '9', '0')
                       : encoding.codec == "hevc" ? cv::VideoWriter::fourcc('h', 'v', 'c', '1')
                                                  : cv::VideoWriter::fourcc('a', 'v', 'c', '1');
    const std::string settings = "crf;" + general(encoding.crf) + "|preset;" +
                                 (options.preset == "light" ? "veryfast" : options.preset);
    setenv("OPENCV_FFMPEG_WRITER_OPTIONS", settings.c_str(), 0);
    writer_.open(temporary_.string(), fourcc, source.rate ? source.rate->value() : 30.0, size);
    if (!writer_.isOpened()) throw VideoError(uri.text + " cannot be made: this OpenCV cannot write " + encoding.codec);
    if (options.audio && !source.audio.empty()) {
      warnings_.push_back(uri.text + ": without sound: this genedge-run was built without FFmpeg");
    }
  }

  ~OpenCvSink() override { OpenCvSink::abort(); }

  void write(const VideoFrame& frame) override {
    writer_.write(frame.image);
    ++frames_written_;
  }

  void close() override { finish(final_); }
  void abort() override { finish(unfinished_); }

 private:
  void finish(const fs::path& name) {
    if (done_) return;
    done_ = true;
    writer_.release();
    std::error_code failure;
    if (frames_written_) {
      fs::rename(temporary_, name, failure);
    } else {
      fs::remove(temporary_, failure);
    }
    if (failure) throw VideoError(final_.string() + " cannot be finished: " + failure.message());
  }

  fs::path final_, unfinished_, temporary_;
  cv::VideoWriter writer_;
  bool done_ = false;
};

}  // namespace

std::unique_ptr<Source> opencv_video(const SourceUri& uri) { return std::make_unique<OpenCvSource>(uri); }

std::unique_ptr<Sink> opencv_video_sink(const SinkUri& uri, const SourceInfo& source, cv::Size size,
                                        const SinkOptions& options) {
  return std::make_unique<OpenCvSink>(uri, source, size, options);
}

}  // namespace genedge
