// Pictures, raw dumps and nothing, and the choice among all sinks.

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "parts.hpp"
#include "text.hpp"
#include "uri.hpp"
#include "video_files.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

const std::vector<std::string> kPresets = {"light",  "ultrafast", "superfast", "veryfast", "faster", "fast",
                                           "medium", "slow",      "slower",    "veryslow", "placebo"};

[[noreturn]] void cannot_write(const fs::path& path, int number) {
  if (number == ENOSPC || number == EDQUOT) {
    throw VideoError("disk full while writing " + path.string() + ": free some space and start again");
  }
  throw VideoError(path.string() + ": " + std::strerror(number));
}

/// Counts frames and forgets them: for measuring.
class NullSink : public Sink {
 public:
  explicit NullSink(cv::Size size) : size_(size) {}
  void write(const VideoFrame& frame) override {
    check_size(frame.image, size_);
    ++frames_written_;
  }
  void close() override {}

 private:
  cv::Size size_;
};

std::vector<fs::path> numbered_files(const fs::path& pattern) {
  int count = 0;
  NumberedName name = numbered_name(pattern.filename().string(), count);
  name.digits = std::min(name.digits, 1);  // any number of digits is of this pattern
  std::vector<fs::path> found;
  std::error_code failure;
  const fs::path folder = pattern.has_parent_path() ? pattern.parent_path() : fs::path(".");
  for (const auto& entry : fs::directory_iterator(folder, failure)) {
    if (name.number_in(entry.path().filename().string()) >= 0) found.push_back(pattern.parent_path() /
                                                                              entry.path().filename());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// Pictures named by frame number, from 0, or a single picture. Each one appears whole: it is renamed.
class PictureSink : public Sink {
 public:
  PictureSink(const SinkUri& uri, cv::Size size)
      : path_(uri.target), single_(uri.kind == SinkKind::picture), size_(size) {
    if (single_) return;
    int count = 0;
    name_ = numbered_name(path_.filename().string(), count);
    for (const auto& file : numbered_files(path_)) older_.push_back(file.filename().string());
  }

  void write(const VideoFrame& frame) override {
    check_size(frame.image, size_);
    if (single_ && frames_written_) throw VideoError(path_.string() + " is one picture, but a second frame came");
    const fs::path path = single_ ? path_ : path_.parent_path() / name_(frame.index);
    const std::string suffix = lower(path.extension().string());
    const std::vector<unsigned char> data = picture_parts().encode(path.string(), suffix, frame.image);
    const fs::path temporary = path.parent_path() / ("." + path.filename().string() + ".part");
    errno = 0;
    std::ofstream file(temporary, std::ios::binary);
    file.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
    file.close();
    if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
      const int number = errno;
      std::error_code failure;
      fs::remove(temporary, failure);
      cannot_write(path, number);
    }
    older_.erase(std::remove(older_.begin(), older_.end(), path.filename().string()), older_.end());
    ++frames_written_;
  }

  void close() override {
    if (!older_.empty() && frames_written_) {
      warnings_.push_back(std::to_string(older_.size()) + " older pictures of the same pattern are still in the folder");
      older_.clear();
    }
  }

 private:
  fs::path path_;
  bool single_;
  cv::Size size_;
  NumberedName name_;
  std::vector<std::string> older_;
};

/// Writes every frame's bytes to a file, and passes it on.
class DumpingSink : public Sink {
 public:
  DumpingSink(std::unique_ptr<Sink> inner, const std::string& path)
      : inner_(std::move(inner)), path_(path), file_(path, std::ios::binary | std::ios::trunc) {
    if (!file_) cannot_write(path_, errno);
  }

  void write(const VideoFrame& frame) override {
    const auto bytes = static_cast<std::streamsize>(frame.image.total() * frame.image.elemSize());
    inner_->write(frame);
    frames_written_ = inner_->frames_written();
    if (!file_.write(reinterpret_cast<const char*>(frame.image.data), bytes)) cannot_write(path_, errno);
  }

  void close() override {
    inner_->close();
    end();
  }
  void abort() override {
    inner_->abort();
    end();
  }
  bool stop_requested() const override { return inner_->stop_requested(); }

 private:
  void end() {
    warnings_ = inner_->warnings();
    if (file_.is_open()) {
      file_.close();
      if (!file_) cannot_write(path_, errno);
    }
  }

  std::unique_ptr<Sink> inner_;
  fs::path path_;
  std::ofstream file_;
};

std::unique_ptr<Sink> opened(const SinkUri& uri, const SourceInfo& source, cv::Size size, const SinkOptions& options) {
  switch (uri.kind) {
    case SinkKind::null: return std::make_unique<NullSink>(size);
    case SinkKind::display: return device_parts().window(size, source);
    case SinkKind::gstreamer: return device_parts().pipeline(uri, source, size);
    case SinkKind::pattern:
    case SinkKind::picture: return std::make_unique<PictureSink>(uri, size);
    case SinkKind::file: break;
  }
  return open_video_sink(uri, source, size, options);
}

}  // namespace

void check_size(const cv::Mat& image, cv::Size size) {
  if (image.size() != size || image.type() != CV_8UC3 || !image.isContinuous()) {
    throw VideoError("a frame of " + std::to_string(image.cols) + "x" + std::to_string(image.rows) +
                     " came to a sink of " + std::to_string(size.width) + "x" + std::to_string(size.height));
  }
}

Encoding encoding_for(const SinkUri& uri, const SinkOptions& options) {
  const bool webm = lower(fs::path(uri.target).extension().string()) == ".webm";
  const std::string codec = options.codec.empty() ? (webm ? "vp9" : "h264") : options.codec;
  if (codec != "h264" && codec != "hevc" && codec != "vp9") {
    throw UsageError("unknown codec " + codec + ": h264, hevc or vp9");
  }
  if (webm && codec != "vp9") throw UsageError(uri.text + ": a .webm file holds vp9, not " + codec +
                                               ": use .mp4 or .mkv");
  if (codec != "vp9" && std::find(kPresets.begin(), kPresets.end(), options.preset) == kPresets.end()) {
    throw UsageError("unknown preset " + options.preset + ": one of " + joined(kPresets));
  }
  const double quality = options.crf.value_or(codec == "h264" ? 18.0 : codec == "hevc" ? 20.0 : 31.0);
  const int best = codec == "vp9" ? 63 : 51;
  if (!(quality >= 0 && quality <= best)) {
    throw UsageError("crf " + general(quality) + " is not between 0 and " + std::to_string(best));
  }
  return {codec, quality};
}

void check_sink(const std::string& text, bool overwrite, const SourceInfo* source) {
  const SinkUri uri = parse_sink(text);
  if (uri.kind == SinkKind::display || uri.kind == SinkKind::null || uri.kind == SinkKind::gstreamer) return;
  const fs::path path = uri.target, folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  std::error_code failure;
  if (!fs::is_directory(folder, failure)) {
    throw UsageError("the folder " + folder.string() + " does not exist: make it first (mkdir -p " + folder.string() +
                     ")");
  }
  if (access(folder.c_str(), W_OK) != 0) throw UsageError("the folder " + folder.string() + " may not be written to");
  if (uri.kind == SinkKind::pattern) {
    const auto taken = overwrite ? std::vector<fs::path>() : numbered_files(path);
    if (!taken.empty()) throw UsageError(taken[0].string() + " exists: add --overwrite to replace such pictures");
    return;
  }
  const bool there = fs::exists(path, failure);
  if (source != nullptr && !source->path.empty() && there && fs::equivalent(path, source->path, failure)) {
    throw UsageError(text + " is the input itself: give the output another name");
  }
  if (there && !overwrite) throw UsageError(text + " exists: add --overwrite to replace it");
  if (uri.kind == SinkKind::picture && source != nullptr && source->frame_count != 1) {
    throw UsageError(text + " is one picture, but the input has many: give " + path.stem().string() + "_%06d" +
                     path.extension().string() + " or a video file");
  }
}

std::unique_ptr<Sink> open_sink(const std::string& text, const SourceInfo& source, cv::Size size,
                                const SinkOptions& options) {
  check_sink(text, options.overwrite, &source);
  auto sink = opened(parse_sink(text), source, size, options);
  if (options.dump_raw.empty()) return sink;
  return std::make_unique<DumpingSink>(std::move(sink), options.dump_raw);
}

}  // namespace genedge
