// The methods give the pictures of tests/data/covers, which tests/face_pictures.py describes and Python's methods give
// too, within one step.
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>

#include "check.hpp"
#include "faces/keys.h"
#include "genedge/error.hpp"
#include "genedge/faces/methods.hpp"

using genedge::faces::Applied;
using genedge::faces::Cover;
using genedge::faces::CoverKind;
using genedge::faces::Landmarks;
using genedge::faces::make_method;
using genedge::faces::RecordingKeys;
using nlohmann::json;

namespace {

std::string bytes_of(const std::string& digits) {
  std::string bytes;
  for (std::size_t place = 0; place < digits.size(); place += 2) {
    bytes.push_back(static_cast<char>(std::stoi(digits.substr(place, 2), nullptr, 16)));
  }
  return bytes;
}

Cover cover_of(const json& text) {
  Cover cover;
  cover.track = text["track"];
  cover.box = {text["box"][0], text["box"][1], text["box"][2], text["box"][3]};
  cover.region = {text["region"][0], text["region"][1], text["region"][2], text["region"][3]};
  cover.kind = CoverKind::detected;
  cover.score = 0.9;
  cover.sure = text["sure"];
  if (!text["landmarks"].is_null()) {
    Landmarks points;
    for (std::size_t index = 0; index < points.size(); ++index) {
      points[index] = {text["landmarks"][index][0].get<float>(), text["landmarks"][index][1].get<float>()};
    }
    cover.landmarks = points;
  }
  return cover;
}

void check_case(const std::string& name, const json& expected, const std::filesystem::path& folder,
                const std::string& root) {
  const auto method = make_method(expected["method"], std::make_shared<RecordingKeys>(root));
  std::vector<Cover> covers;
  for (const json& cover : expected["covers"]) covers.push_back(cover_of(cover));
  cv::Mat image = cv::imread((folder / "picture.png").string());
  if (expected["before"]) {
    cv::Mat inverted = cv::Scalar::all(255) - image;
    method->apply(inverted, covers);
  }
  json applied = json::array();
  for (const Applied& each : method->apply(image, covers)) applied.push_back({each.method, each.reason});
  check(applied == expected["applied"], name + ": said " + applied.dump(), __FILE__, __LINE__);
  const cv::Mat wanted = cv::imread((folder / (name + ".png")).string());
  double most = 0;
  cv::Mat difference;
  cv::absdiff(image, wanted, difference);
  cv::minMaxLoc(difference.reshape(1), nullptr, &most);
  check(most <= 1, name + ": differs by up to " + std::to_string(most), __FILE__, __LINE__);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::filesystem::path folder = argv[1];
  const json text = json::parse(read_file((folder / "cases.json").string()));
  const std::string root = bytes_of(text["root"]);
  for (const auto& [name, expected] : text["cases"].items()) check_case(name, expected, folder, root);
  CHECK(text["cases"].size() >= 4);
  CHECK_THROWS(genedge::UsageError, "no method is called 'sold': take one of average, generator", make_method("sold"));
  CHECK_THROWS(genedge::UsageError, "needs a face generator", make_method("generator"));
  return result();
}
