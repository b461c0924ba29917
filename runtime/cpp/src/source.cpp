// Pictures, and the choice among all sources.

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <map>

#include "live.hpp"
#include "parts.hpp"
#include "text.hpp"
#include "uri.hpp"
#include "video_files.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

cv::Mat read_picture(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string data{std::istreambuf_iterator<char>(file), {}};
  cv::Mat image = picture_parts().decode(data.data(), data.size(), false);
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

std::unique_ptr<Source> opened(const SourceUri& uri, const SourceOptions& options) {
  switch (uri.kind) {
    case SourceKind::camera:
    case SourceKind::csi:
    case SourceKind::gstreamer: return device_parts().camera(uri, options);
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
