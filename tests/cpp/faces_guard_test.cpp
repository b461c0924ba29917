// The guard gives the verdicts of tests/data/traces, which tests/face_traces.py describes and Python's guard gives too.
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "check.hpp"
#include "genedge/faces/guard.hpp"

using genedge::faces::Box;
using genedge::faces::Cover;
using genedge::faces::Face;
using genedge::faces::Guard;
using genedge::faces::GuardSettings;
using genedge::faces::Landmarks;
using genedge::faces::Verdict;
using nlohmann::json;

namespace {

std::string place;

void differs(const std::string& what, const json& got, const json& expected) {
  check(false, place + ": " + what + ": got " + got.dump() + ", expected " + expected.dump(), __FILE__, __LINE__);
}

void same(const std::string& what, const json& got, const json& expected) {
  if (got != expected) differs(what, got, expected);
}

void near(const std::string& what, const json& got, const json& expected, double tolerance) {
  bool equal = got.size() == expected.size();
  for (std::size_t index = 0; equal && index < got.size(); ++index) {
    equal = std::abs(got[index].get<double>() - expected[index].get<double>()) <= tolerance;
  }
  if (!equal) differs(what, got, expected);
}

cv::Mat picture_of(const json& size, const json& squares) {
  cv::Mat image(size[1].get<int>(), size[0].get<int>(), CV_8UC3, cv::Scalar::all(100));
  for (const json& square : squares) {
    const int left = square[0], top = square[1], side = square[2], seed = square[3];
    for (int y = 0; y < std::min(side, image.rows - top); ++y) {
      for (int x = 0; x < std::min(side, image.cols - left); ++x) {
        const int down = y / 4, across = x / 4;
        const int value = (down * 101 + across * 37 + down * across * 17 + seed * 53) * 61 % 200 + 20;
        image.at<cv::Vec3b>(top + y, left + x) = cv::Vec3b::all(static_cast<unsigned char>(value));
      }
    }
  }
  return image;
}

Face face_of(const json& text) {
  Face face;
  const json& box = text["box"];
  face.box = {box[0], box[1], box[2], box[3]};
  face.score = text["score"];
  if (text.contains("landmarks")) {
    Landmarks points;
    for (std::size_t index = 0; index < points.size(); ++index) {
      points[index] = {text["landmarks"][index][0].get<float>(), text["landmarks"][index][1].get<float>()};
    }
    face.landmarks = points;
  }
  return face;
}

json numbers(const Box& box) { return json::array({box.x, box.y, box.width, box.height}); }

void check_cover(const Cover& cover, const json& expected) {
  same("track", cover.track, expected["track"]);
  same("kind", name_of(cover.kind), expected["kind"]);
  same("score", cover.score, expected["score"]);
  same("sure", cover.sure, expected["sure"]);
  near("box", numbers(cover.box), expected["box"], 1e-6);
  near("region", numbers(cover.region), expected["region"], 1e-6);
  if (cover.landmarks.has_value() == expected["landmarks"].is_null()) {
    return differs("landmarks", cover.landmarks.has_value(), expected["landmarks"]);
  }
  for (std::size_t index = 0; cover.landmarks && index < cover.landmarks->size(); ++index) {
    const auto& point = (*cover.landmarks)[index];
    near("landmarks", json::array({point.x, point.y}), expected["landmarks"][index], 1e-4);
  }
}

void check_verdict(const Verdict& verdict, const json& expected) {
  place = place.substr(0, place.find(" frame")) + " frame " + std::to_string(verdict.index);
  same("index", verdict.index, expected["index"]);
  same("reason", verdict.reason, expected["reason"]);
  same("ok", verdict.ok, expected["reason"].get<std::string>().empty());
  if (verdict.covers.size() != expected["covers"].size()) {
    return differs("covers", verdict.covers.size(), expected["covers"]);
  }
  for (std::size_t index = 0; index < verdict.covers.size(); ++index) {
    check_cover(verdict.covers[index], expected["covers"][index]);
  }
}

void check_trace(const json& trace) {
  GuardSettings settings;
  const json& given = trace["settings"];
  settings.lookahead = given.value("lookahead", settings.lookahead);
  settings.hold = given.value("hold", settings.hold);
  Guard guard(settings);
  std::size_t decided = 0, late = 0;
  const auto pop_all = [&] {
    while (const auto verdict = guard.pop()) {
      if (decided == trace["verdicts"].size()) return differs("verdicts", verdict->index, "none");
      check_verdict(*verdict, trace["verdicts"][decided++]);
    }
  };
  for (const json& frame : trace["frames"]) {
    const int index = frame["index"];
    const double pts = frame["pts"];
    const bool cut = frame.value("cut", false);
    if (frame.contains("fail")) {
      guard.fail(index, pts, cv::Mat(), frame["fail"], cut);
    } else {
      std::vector<Face> faces;
      for (const json& face : frame.value("faces", json::array())) faces.push_back(face_of(face));
      guard.push(index, pts, frame.contains("squares") ? picture_of(trace["size"], frame["squares"]) : cv::Mat(), faces,
                 cut);
    }
    pop_all();
    if (frame.contains("late")) {
      const int about = trace["verdicts"][decided - 1]["index"];
      check_cover(guard.add_late(about, face_of(frame["late"])), trace["late"][late++]);
    }
  }
  guard.finish();
  pop_all();
  same("verdicts", decided, trace["verdicts"].size());
  json tracks = json::array();
  for (const auto& track : guard.tracks()) {
    tracks.push_back({{"track", track.track},
                      {"first", track.first},
                      {"last", track.last},
                      {"seen", track.seen},
                      {"held", track.held},
                      {"filled", track.filled},
                      {"interpolated", track.interpolated},
                      {"best_score", track.best_score},
                      {"uncertain", track.uncertain}});
  }
  same("tracks", tracks, trace["tracks"]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::set<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) paths.insert(entry.path());
  for (const auto& path : paths) {
    place = path.stem().string();
    check_trace(json::parse(read_file(path.string())));
  }
  CHECK(paths.size() >= 12);
  return result();
}
