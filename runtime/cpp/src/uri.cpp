#include "uri.hpp"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "genedge/error.hpp"
#include "text.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

const std::vector<std::string> kPictures = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"};
const std::vector<std::string> kVideos = {".mp4", ".m4v", ".mov", ".mkv", ".webm"};
const std::vector<std::string> kNetwork = {"rtsp", "rtsps", "http", "https", "rtmp", "udp", "srt"};

bool among(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

std::string scheme_of(const std::string& text) {
  const std::string scheme = lower(text.substr(0, text.find("://")));
  const bool plain = scheme.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789+.-") == std::string::npos;
  return scheme.size() < text.size() && plain && scheme[0] >= 'a' && scheme[0] <= 'z' ? scheme : "";
}

std::string path_of(const std::string& text, const std::string& scheme) {
  if (scheme != "file") return text;
  std::string rest = text.substr(7);
  if (starts_with(rest, "localhost/")) rest = rest.substr(9);
  if (!starts_with(rest, "/")) {
    throw UsageError(text + ": a file address has three slashes, as in file:///home/me/clip.mp4");
  }
  std::string path;
  for (std::size_t i = 0; i < rest.size(); ++i) {
    int code = 0;
    if (rest[i] == '%' && i + 2 < rest.size() && std::sscanf(rest.substr(i + 1, 2).c_str(), "%2x", &code) == 1) {
      path += static_cast<char>(code);
      i += 2;
    } else {
      path += rest[i];
    }
  }
  return path;
}

bool is_folder(const std::string& target) {
  std::error_code failure;
  return ends_with(target, "/") || fs::is_directory(target, failure);
}

int numbers_in(const std::string& target) {
  int count = 0;
  numbered_name(fs::path(target).filename().string(), count);
  return count;
}

}  // namespace

const std::vector<std::string>& picture_suffixes() { return kPictures; }

NumberedName numbered_name(const std::string& name, int& count) {
  NumberedName first;
  count = 0;
  for (std::size_t i = name.find('%'); i != std::string::npos; i = name.find('%', i + 1)) {
    std::size_t end = i + 1;  // %d, or %0 and digits and d
    while (end < name.size() && name[i + 1] == '0' && name[end] >= '0' && name[end] <= '9') ++end;
    if (end == i + 2 || end == name.size() || name[end] != 'd') continue;
    if (count++ == 0) {
      const std::string digits = name.substr(i + 1, std::min<std::size_t>(end - i - 1, 4));
      first = {name.substr(0, i), name.substr(end + 1), digits.empty() ? 0 : std::stoi(digits)};
    }
  }
  return first;
}

std::string NumberedName::operator()(long long number) const {
  std::string text = std::to_string(number);
  if (static_cast<int>(text.size()) < digits) text.insert(0, static_cast<std::size_t>(digits) - text.size(), '0');
  return before + text + after;
}

long long NumberedName::number_in(const std::string& name) const {
  if (name.size() <= before.size() + after.size() || !starts_with(name, before) || !ends_with(name, after)) return -1;
  const std::string number = name.substr(before.size(), name.size() - before.size() - after.size());
  if (!all_digits(number) || number.size() > 18) return -1;
  const bool zeros = number.size() > 1 && number[0] == '0';
  if (digits ? static_cast<int>(number.size()) < digits : zeros) return -1;
  return std::stoll(number);
}

SourceUri parse_source(const std::string& text) {
  if (trimmed(text).empty()) {
    throw UsageError("the input is empty: give a video file, a folder of pictures or a camera such as 0");
  }
  if (all_digits(text)) return {SourceKind::camera, text, text};
  if (starts_with(text, "/dev/video") && all_digits(text.substr(10))) return {SourceKind::camera, text, text};
  if (text == "-") return {SourceKind::standard_input, "pipe:0", text};
  if (starts_with(text, "gst:")) {
    if (trimmed(text.substr(4)).empty()) {
      throw UsageError(text + ": name the pipeline's elements, as in gst:'v4l2src device=/dev/video0'");
    }
    return {SourceKind::gstreamer, text.substr(4), text};
  }
  const std::string scheme = scheme_of(text);
  if (scheme == "v4l2") {
    const std::string device = text.substr(7);
    if (!all_digits(device) && !(starts_with(device, "/dev/") && device.size() > 5)) {
      throw UsageError(text + ": name the camera's device, as in v4l2:///dev/video0");
    }
    return {SourceKind::camera, device, text};
  }
  if (scheme == "csi") {
    if (!all_digits(text.substr(6))) throw UsageError(text + ": name the camera by its number, as in csi://0");
    return {SourceKind::csi, text.substr(6), text};
  }
  if (among(kNetwork, scheme)) return {SourceKind::network, text, text};
  if (!scheme.empty() && scheme != "file") {
    throw UsageError(text + ": unknown input: give a file, a folder, frames_%06d.png, a camera (0 or /dev/video0), "
                     "rtsp://..., http://..., csi://0, gst:PIPELINE or - for standard input");
  }
  const std::string target = path_of(text, scheme);
  if (is_folder(target)) return {SourceKind::folder, target, text};
  std::error_code failure;
  if (const int count = numbers_in(target); count && !fs::exists(target, failure)) {
    if (count > 1) throw UsageError(text + ": one number only, as in frames_%06d.png");
    return {SourceKind::pattern, target, text};
  }
  const bool picture = among(kPictures, lower(fs::path(target).extension().string()));
  return {picture ? SourceKind::picture : SourceKind::file, target, text};
}

SinkUri parse_sink(const std::string& text) {
  if (trimmed(text).empty()) throw UsageError("the output is empty: give a file such as out.mp4");
  const std::string scheme = scheme_of(text);
  if (scheme == "display") return {SinkKind::display, "", text};
  if (scheme == "null") return {SinkKind::null, "", text};
  if (starts_with(text, "gst:")) {
    if (trimmed(text.substr(4)).empty()) {
      throw UsageError(text + ": name the pipeline's elements, as in gst:'autovideosink'");
    }
    return {SinkKind::gstreamer, text.substr(4), text};
  }
  if (scheme == "http") {
    throw UsageError(text + ": the page in the browser is an output of `python -m runtime` only: give a file, "
                     "display:// or gst:PIPELINE");
  }
  if (scheme == "vcam" || among(kNetwork, scheme)) {
    throw UsageError(text + ": this output is not supported here: give a file, display://, gst:PIPELINE or null://");
  }
  if (!scheme.empty() && scheme != "file") {
    throw UsageError(text + ": unknown output: give a file such as out.mp4, display:// or null://");
  }
  const std::string target = path_of(text, scheme);
  if (is_folder(target)) {
    const auto end = target.find_last_not_of('/');
    throw UsageError(text + " is a folder: name the pictures in it, as in " + target.substr(0, end + 1) +
                     "/frames_%06d.png");
  }
  const std::string suffix = lower(fs::path(target).extension().string());
  if (const int count = numbers_in(target)) {
    if (count > 1) throw UsageError(text + ": one number only, as in frames_%06d.png");
    if (!among(kPictures, suffix)) {
      throw UsageError(text + ": numbered pictures end in one of " + joined(kPictures, " "));
    }
    return {SinkKind::pattern, target, text};
  }
  if (among(kPictures, suffix)) return {SinkKind::picture, target, text};
  if (among(kVideos, suffix)) return {SinkKind::file, target, text};
  throw UsageError(text + ": cannot tell what to write: end the name in " + joined(kVideos, " ") +
                   " for video, or give frames_%06d.png, display:// or null://");
}

}  // namespace genedge
