// Frames are searched as tests/data/face-search.json says, which tests/face_searches.py describes and Python's detector
// does too.
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "check.hpp"
#include "faces/search.h"
#include "genedge/error.hpp"

using genedge::Error;
using genedge::faces::Heads;
using genedge::faces::Pass;
using genedge::faces::Row;
using genedge::faces::Rows;
using nlohmann::json;

namespace {

const cv::Size kSize(96, 64);

std::vector<double> numbers(std::int64_t seed, std::size_t count) {
  std::vector<double> values;
  std::int64_t state = seed;
  for (std::size_t place = 0; place < count; ++place) {
    state = (1103515245 * state + 12345) % (std::int64_t{1} << 31);
    values.push_back(static_cast<double>(state) / static_cast<double>(std::int64_t{1} << 31));
  }
  return values;
}

struct MadeHeads {
  std::map<std::string, std::vector<float>> values;

  explicit MadeHeads(int seed) {
    int place = 0;
    for (const int stride : {8, 16, 32}) {
      const auto cells = static_cast<std::size_t>(kSize.height / stride * (kSize.width / stride));
      for (const auto& [kind, each] : {std::pair("cls", 1), {"obj", 1}, {"bbox", 4}, {"kps", 10}}) {
        const bool second = std::string(kind) == "obj";
        auto& head = values[kind + std::string("_") + std::to_string(stride)];
        for (const double value : numbers(100 * seed + 10 * place + each + second, cells * std::size_t(each))) {
          head.push_back(static_cast<float>(each == 1 ? value : 4 * value - 2));
        }
      }
      ++place;
    }
  }

  Heads heads() const {
    Heads result;
    for (const auto& [name, head] : values) result[name] = {head.data(), static_cast<std::int64_t>(head.size())};
    return result;
  }
};

Rows rows_of(int seed, int count) {
  const std::vector<double> values = numbers(seed + 1, static_cast<std::size_t>(15 * count));
  Rows rows(static_cast<std::size_t>(count));
  for (std::size_t place = 0; place < values.size(); ++place) {
    const std::size_t column = place % 15;
    double spread = column % 2 == 0 ? 400 : 300, least = 0;
    if (column == 2 || column == 3) {
      spread = 60;
      least = 6;
    } else if (column == 14) {
      spread = 0.7;
      least = 0.3;
    }
    rows[place / 15][column] = static_cast<float>(values[place] * spread + least);
  }
  return rows;
}

Pass pass_of(const json& look) {
  Pass pass{look[0], look[1], look[2], look[3], look[4], std::nullopt};
  if (look[5] != -1) pass.turn = look[5].get<int>();
  pass.mirror = look[6] == 1;
  return pass;
}

void same_looks(const std::string& what, const std::vector<Pass>& looks, const json& expected) {
  std::vector<Pass> wanted;
  for (const json& look : expected) wanted.push_back(pass_of(look));
  check(looks == wanted, what + ": " + std::to_string(looks.size()) + " other looks than " + expected.dump(), __FILE__,
        __LINE__);
}

void same_rows(const std::string& what, const Rows& rows, const json& expected) {
  check(rows.size() == expected.size(), what + ": " + std::to_string(rows.size()) + " rows", __FILE__, __LINE__);
  for (std::size_t place = 0; place < std::min(rows.size(), expected.size()); ++place) {
    for (std::size_t column = 0; column < 15; ++column) {
      const float wanted = expected[place][column].get<float>();
      check(rows[place][column] == wanted,
            what + ", row " + std::to_string(place) + ", column " + std::to_string(column) + ": " +
                std::to_string(rows[place][column]) + ", not " + std::to_string(wanted),
            __FILE__, __LINE__);
    }
  }
}

cv::Size size_of(const json& sides) { return {sides[1].get<int>(), sides[0].get<int>()}; }

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const json text = json::parse(read_file(argv[1]));
  for (const json& each : text["passes"]) {
    same_looks("passes of " + each["frame"].dump(),
               genedge::faces::passes_for(size_of(each["frame"]), each["thorough"]), each["looks"]);
  }
  for (const json& each : text["decoded"]) {
    const MadeHeads made(each["seed"]);
    const Rows rows = genedge::faces::decode(made.heads(), kSize, each["low"], "model.onnx");
    same_rows("decoded " + each["seed"].dump(), rows, each["rows"]);
    same_rows("back " + each["look"].dump(), pass_of(each["look"]).back(rows), each["back"]);
  }
  for (const json& each : text["merged"]) {
    same_rows("merged " + each["seed"].dump(), genedge::faces::merged(rows_of(each["seed"], 60)), each["rows"]);
  }
  for (const json& each : text["closer"]) {
    const cv::Size frame = size_of(each["frame"]);
    const std::vector<Pass> thorough = genedge::faces::passes_for(frame, true);
    std::vector<Rows> found;
    Rows all;
    for (std::size_t number = 0; number < thorough.size(); ++number) {
      found.push_back(thorough[number].whole(rows_of(static_cast<int>(number), each["count"]), frame));
      all.insert(all.end(), found.back().begin(), found.back().end());
    }
    same_looks("closer looks at " + each["frame"].dump() + " for " + each["count"].dump(),
               genedge::faces::closer_looks(genedge::faces::merged(all), thorough, found,
                                            genedge::faces::passes_for(frame, false), frame),
               each["looks"]);
  }
  CHECK(!text["passes"].empty() && !text["decoded"].empty() && !text["merged"].empty() && !text["closer"].empty());

  MadeHeads made(0);
  made.values["kps_32"][3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS(Error, "a number that is none", genedge::faces::decode(made.heads(), kSize, 0.5, "model.onnx"));
  made.values["kps_32"].pop_back();
  CHECK_THROWS(Error, "model.onnx: the output kps_32", genedge::faces::decode(made.heads(), kSize, 0.5, "model.onnx"));
  Rows apart;
  for (int place = 0; place < 501; ++place) apart.push_back(Row{static_cast<float>(10 * place), 0, 5, 5});
  CHECK_THROWS(Error, "more than 500 faces", genedge::faces::merged(apart));

  // what the net gets: the frame in the corner, grey beside it
  const cv::Mat image(60, 100, CV_8UC3, cv::Scalar(10, 20, 30));
  const cv::Mat picture = Pass{0, 0, 100, 60, 1.0, cv::ROTATE_90_CLOCKWISE}.picture(image);
  CHECK_EQUAL(picture.size(), cv::Size(64, 128));
  CHECK_EQUAL(picture.at<cv::Vec3b>(99, 59), cv::Vec3b(10, 20, 30));
  CHECK_EQUAL(picture.at<cv::Vec3b>(100, 59), cv::Vec3b(114, 114, 114));
  CHECK_EQUAL(picture.at<cv::Vec3b>(99, 60), cv::Vec3b(114, 114, 114));
  return result();
}
