// Names of inputs and outputs, and a film that is written and read again, through whatever reads video here.
#include <cstdlib>
#include <filesystem>
#include <opencv2/imgproc.hpp>

#include "check.hpp"
#include "genedge/error.hpp"
#include "genedge/video.hpp"
#include "uri.hpp"

namespace fs = std::filesystem;
using genedge::SinkKind;
using genedge::SourceKind;
using genedge::UsageError;

namespace {

void check_names() {
  const auto kind = [](const std::string& text) { return genedge::parse_source(text).kind; };
  CHECK(kind("0") == SourceKind::camera);
  CHECK(kind("/dev/video12") == SourceKind::camera);
  CHECK(kind("v4l2:///dev/video0") == SourceKind::camera);
  CHECK(kind("csi://1") == SourceKind::csi);
  CHECK(kind("rtsp://camera/stream") == SourceKind::network);
  CHECK(kind("gst:videotestsrc ! videoconvert") == SourceKind::gstreamer);
  CHECK(kind("-") == SourceKind::standard_input);
  CHECK(kind("frames_%06d.png") == SourceKind::pattern);
  CHECK(kind("photo.JPG") == SourceKind::picture);
  CHECK(kind("somewhere/") == SourceKind::folder);
  CHECK(kind("clip.mp4") == SourceKind::file);
  CHECK_EQUAL(genedge::parse_source("file:///a%20b.mp4").target, "/a b.mp4");
  CHECK_THROWS(UsageError, "unknown input", kind("ftp://x"));
  CHECK_THROWS(UsageError, "one number only", kind("%d_%d.png"));
  CHECK_THROWS(UsageError, "name the camera by its number", kind("csi://front"));
  CHECK(genedge::parse_sink("out.MKV").kind == SinkKind::file);
  CHECK(genedge::parse_sink("gst:fakesink").kind == SinkKind::gstreamer);
  CHECK_THROWS(UsageError, "cannot tell what to write", genedge::parse_sink("out.xyz"));
  CHECK_THROWS(UsageError, "numbered pictures end in one of", genedge::parse_sink("%d.mp4"));

  int count = 0;
  for (const auto& [text, wanted] : {std::pair("a%d.png", 1), {"%05d%d.png", 2}, {"100%.png", 0}, {"%5d.png", 0},
                                     {"%0d.png", 0}, {"%", 0}, {"%x%03d.png", 1}}) {
    genedge::numbered_name(text, count);
    CHECK_EQUAL(count, wanted);
  }
  const auto name = genedge::numbered_name("a%04d.png", count);
  CHECK_EQUAL(name(12), "a0012.png");
  CHECK_EQUAL(name.number_in("a0012.png"), 12);
  CHECK_EQUAL(name.number_in("a012.png"), -1);
  CHECK_EQUAL(name.number_in("a12345.png"), 12345);
  CHECK_EQUAL(genedge::numbered_name("%d.png", count).number_in("007.png"), -1);
}

cv::Mat picture(int index) {
  cv::Mat image(48, 64, CV_8UC3, cv::Scalar(40, 80, 120));
  cv::circle(image, {10 + 4 * index, 24}, 8, {200, 160, 90}, -1);
  return image;
}

void check_film(const fs::path& folder, const std::string& name) {
  genedge::SourceInfo source;
  source.size = {64, 48};
  source.rate = genedge::Rational{25, 1};
  source.time_base = {1, 25};
  const std::string path = (folder / name).string();
  const auto sink = genedge::open_sink(path, source, {64, 48});
  for (int i = 0; i < 10; ++i) {
    genedge::VideoFrame frame;
    frame.image = picture(i);
    frame.index = frame.pts = i;
    frame.duration = 1;
    sink->write(frame);
  }
  CHECK(!fs::exists(path));  // it has its name only when it is whole
  sink->close();
  const auto again = genedge::open_source(path);
  CHECK_EQUAL(again->info().size, cv::Size(64, 48));
  int count = 0;
  for (; auto frame = again->read(); ++count) {
    CHECK(cv::norm(frame->image, picture(count), cv::NORM_L1) / (48 * 64 * 3) < 6);
    CHECK(std::abs(static_cast<double>(frame->pts) * again->info().time_base.value() - count / 25.0) < 0.002);
  }
  CHECK_EQUAL(count, 10);
  CHECK_THROWS(UsageError, "exists: add --overwrite", genedge::open_sink(path, source, {64, 48}));
  CHECK_THROWS(UsageError, "is the input itself", genedge::check_sink(path, true, &again->info()));
}

void check_aborted(const fs::path& folder) {
  genedge::SourceInfo source;
  source.size = {64, 48};
  const std::string path = (folder / "aborted.mp4").string();
  genedge::open_sink(path, source, {64, 48})->abort();
  CHECK_EQUAL(std::distance(fs::directory_iterator(folder), {}), 0);
}

}  // namespace

int main() {
  std::string name = (fs::temp_directory_path() / "genedge-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) return 2;
  check_names();
  check_aborted(name);
  check_film(name, "film.mp4");
  check_film(name, "film.mkv");
  fs::remove_all(name);
  return result();
}
