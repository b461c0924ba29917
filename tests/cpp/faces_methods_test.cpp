// The methods give the pictures of tests/data/covers, which tests/face_pictures.py describes and Python's methods give
// too, within one step.
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>

#include "check.hpp"
#include "faces/generator.h"
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

// In the place of a generator's session, as tests/face_pictures.py has it.
class Inverting : public genedge::Session {
 public:
  Inverting() {
    genedge::Code landmarks, passcode;
    landmarks.kind = "vector";
    landmarks.default_value.assign(10, 0.0);
    landmarks.low = -1;
    passcode.kind = "bits";
    passcode.default_value.assign(4, 0.0);
    codes_ = {{"landmarks", landmarks}, {"passcode", passcode}};
  }

  genedge::EngineInfo info() const override { return {}; }
  int in_flight() const override { return 1; }
  int scale() const override { return 1; }
  const std::map<std::string, genedge::Code>& codes() const override { return codes_; }
  void set_code(const std::string& name, const std::vector<double>& values) override { now_[name] = values; }
  void set_codes(const std::map<std::string, std::vector<double>>& values) override { now_ = values; }
  void reset() override {}
  void prepare(cv::Size) override {}

  genedge::Pending submit(const cv::Mat& frame, cv::Mat& out) override {
    const auto on = std::count_if(now_["passcode"].begin(), now_["passcode"].end(), [](double bit) { return bit > 0; });
    out = cv::Scalar::all(255) - frame - cv::Scalar::all(10.0 * static_cast<double>(on));
    const std::vector<double>& points = now_["landmarks"];
    for (std::size_t place = 0; place < points.size(); place += 2) {
      const int x = static_cast<int>((points[place] + 1) * 48), y = static_cast<int>((points[place + 1] + 1) * 48);
      out(cv::Rect(x - 1, y - 1, 3, 3)).setTo(cv::Scalar::all(255));
    }
    return [] {};
  }

 private:
  std::map<std::string, genedge::Code> codes_;
  std::map<std::string, std::vector<double>> now_;
};

void check_case(const std::string& name, const json& expected, const std::filesystem::path& folder,
                const std::string& root) {
  std::unique_ptr<genedge::faces::Painter> painter;
  if (expected["method"] == "generator") {
    painter = genedge::faces::make_generator_painter(std::make_unique<Inverting>());
  }
  const auto method = make_method(expected["method"], std::make_shared<RecordingKeys>(root), std::move(painter));
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
  CHECK(text["cases"].size() >= 5);
  CHECK_THROWS(genedge::UsageError, "no method is called 'sold': take one of average, generator", make_method("sold"));
  CHECK_THROWS(genedge::UsageError, "needs a face generator", make_method("generator"));
  return result();
}
