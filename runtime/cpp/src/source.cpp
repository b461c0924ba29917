// Pictures and cameras through OpenCV, and the choice among all sources.

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <numeric>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/videoio.hpp>
#include <thread>

#include "live.hpp"
#include "text.hpp"
#include "uri.hpp"
#include "video_files.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

constexpr double kTimeout = 10.0;  // seconds that a camera may stay silent
constexpr std::int64_t kTicks = 90'000;

/// OpenCV prints its own warnings when a camera does not open; our message says it.
class QuietOpenCv {
 public:
  QuietOpenCv() : before_(cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT)) {}
  ~QuietOpenCv() { cv::utils::logging::setLogLevel(before_); }

 private:
  cv::utils::logging::LogLevel before_;
};

cv::Mat read_picture(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string data{std::istreambuf_iterator<char>(file), {}};
  cv::Mat image;
  try {
    const QuietOpenCv quiet;
    const cv::Mat bytes(1, static_cast<int>(data.size()), CV_8U, const_cast<char*>(data.data()));
    if (!data.empty()) image = cv::imdecode(bytes, cv::IMREAD_COLOR);
  } catch (const cv::Exception&) {  // more pixels than OpenCV reads
  }
  if (image.empty()) {
    throw VideoError(path.string() + " cannot be read as a picture" + (data.empty() ? " (0 bytes)" : ""));
  }
  return image;
}

/// Whether `one` comes before `other`, with numbers in their names by value.
bool naturally_less(const std::string& one, const std::string& other) {
  const auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  std::size_t i = 0, k = 0;
  while (i < one.size() && k < other.size()) {
    if (digit(one[i]) && digit(other[k])) {
      const auto end_of = [&](const std::string& text, std::size_t from) {
        while (from < text.size() && digit(text[from])) ++from;
        return from;
      };
      const std::size_t i_end = end_of(one, i), k_end = end_of(other, k);
      while (i < i_end - 1 && one[i] == '0') ++i;
      while (k < k_end - 1 && other[k] == '0') ++k;
      if (i_end - i != k_end - k) return i_end - i < k_end - k;
      const int order = one.compare(i, i_end - i, other, k, k_end - k);
      if (order) return order < 0;
      i = i_end, k = k_end;
      continue;
    }
    const char a = static_cast<char>(std::tolower(static_cast<unsigned char>(one[i])));
    const char b = static_cast<char>(std::tolower(static_cast<unsigned char>(other[k])));
    if (digit(one[i]) != digit(other[k])) return digit(one[i]);
    if (a != b) return a < b;
    ++i, ++k;
  }
  return one.size() - i < other.size() - k;
}

/// A picture, a folder of pictures in natural order, or numbered pictures, at a constant rate (25 unless told).
class ImageSource : public Source {
 public:
  ImageSource(const SourceUri& uri, const SourceOptions& options) {
    const fs::path path = uri.target;
    if (uri.kind == SourceKind::picture) {
      if (!fs::exists(path)) throw VideoError(uri.text + " does not exist");
      paths_ = {path};
    } else if (uri.kind == SourceKind::folder) {
      list_folder(path, uri.text);
    } else {
      list_numbered(path, uri.text);
    }
    first_ = read_picture(paths_[0]);
    const Rational rate = options.rate.value_or(Rational{25, 1});
    info_.uri = uri.text;
    info_.size = first_.size();
    info_.rate = rate;
    info_.time_base = {rate.den, rate.num};
    info_.frame_count = static_cast<std::int64_t>(paths_.size());
    if (uri.kind == SourceKind::picture) info_.path = uri.target;
    const std::string suffix = lower(paths_[0].extension().string());
    info_.codec = suffix.empty() ? "" : suffix.substr(1);
  }

  std::optional<VideoFrame> read() override {
    if (index_ >= paths_.size()) return std::nullopt;
    const fs::path& path = paths_[index_];
    VideoFrame frame;
    frame.image = first_.empty() ? read_picture(path) : first_;
    first_.release();
    if (frame.image.size() != info_.size) {
      throw VideoError(path.string() + " is " + shown(frame.image.size()) + ", but the first picture is " +
                       shown(info_.size) + ": all must have the same size");
    }
    frame.index = frame.pts = static_cast<std::int64_t>(index_++);
    frame.duration = 1;
    return frame;
  }

 private:
  static std::string shown(cv::Size size) { return std::to_string(size.width) + "x" + std::to_string(size.height); }

  void list_folder(const fs::path& folder, const std::string& text) {
    std::error_code failure;
    if (!fs::is_directory(folder, failure)) {
      throw VideoError(text + (fs::exists(folder, failure) ? " is not a folder" : " does not exist"));
    }
    const auto& suffixes = picture_suffixes();
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string suffix = lower(entry.path().extension().string());
      const bool picture = std::find(suffixes.begin(), suffixes.end(), suffix) != suffixes.end();
      if (picture && entry.is_regular_file() && entry.path().filename().string()[0] != '.') {
        paths_.push_back(entry.path());
      }
    }
    std::sort(paths_.begin(), paths_.end(), [](const fs::path& one, const fs::path& other) {
      return naturally_less(one.filename().string(), other.filename().string());
    });
    if (paths_.empty()) throw VideoError(text + " holds no picture (" + joined(suffixes, " ") + ")");
  }

  void list_numbered(const fs::path& pattern, const std::string& text) {
    int count = 0;
    const auto name = numbered_name(pattern.filename().string(), count);
    const fs::path folder = pattern.has_parent_path() ? pattern.parent_path() : fs::path(".");
    std::map<long long, fs::path> numbered;
    std::error_code failure;
    for (const auto& entry : fs::directory_iterator(folder, failure)) {
      const long long number = name.number_in(entry.path().filename().string());
      if (number >= 0) numbered[number] = entry.path();
    }
    if (numbered.empty()) throw VideoError(text + ": no picture has such a name");
    const long long first = numbered.begin()->first, last = numbered.rbegin()->first;
    const long long gaps = last - first + 1 - static_cast<long long>(numbered.size());
    if (gaps) {
      warnings_.push_back(text + ": " + std::to_string(gaps) + " numbers between " + std::to_string(first) + " and " +
                          std::to_string(last) + " have no picture");
    }
    for (const auto& entry : numbered) paths_.push_back(entry.second);
  }

  std::vector<fs::path> paths_;
  cv::Mat first_;
  std::size_t index_ = 0;
};

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

std::unique_ptr<Source> opened(const SourceUri& uri, const SourceOptions& options) {
  switch (uri.kind) {
    case SourceKind::camera:
    case SourceKind::csi:
    case SourceKind::gstreamer: return std::make_unique<CameraSource>(uri, options);
    case SourceKind::pattern:
    case SourceKind::folder:
    case SourceKind::picture: return std::make_unique<ImageSource>(uri, options);
    default: return open_video(uri);
  }
}

}  // namespace

void check_video_file(const SourceUri& uri) {
  std::error_code failure;
  if (!fs::exists(uri.target, failure)) throw VideoError(uri.text + " does not exist");
  if (fs::is_regular_file(uri.target, failure) && fs::file_size(uri.target, failure) == 0) {
    throw VideoError(uri.text + " is empty (0 bytes)");
  }
}

std::unique_ptr<Source> open_source(const std::string& text, const SourceOptions& options) {
  auto source = opened(parse_source(text), options);
  if (source->info().live) return newest_source(std::move(source), options.max_latency, true);
  if (options.realtime) return newest_source(paced_source(std::move(source)), options.max_latency, false);
  return source;
}

}  // namespace genedge
