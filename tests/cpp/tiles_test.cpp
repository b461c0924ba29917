// Plans as runtime/tiles.py makes them, and sessions around the null engine: what is brought to a size comes back whole.
#include <opencv2/imgproc.hpp>

#include "check.hpp"
#include "engines.hpp"
#include "genedge/error.hpp"
#include "tiles.hpp"

using genedge::SizeRule;
using genedge::UsageError;

namespace {

std::string spelled(const genedge::TilePlan& plan) {
  std::ostringstream out;
  out << plan.padded << plan.tile;
  for (const auto& tile : plan.tiles) out << ' ' << tile.window << tile.part;
  return out.str();
}

/// Doubles every pixel of frames that are not smaller than `least`, and knows no engine.
class Doubling : public genedge::Session {
 public:
  explicit Doubling(int fail_at = -1) : fail_at_(fail_at) {}
  genedge::EngineInfo info() const override { return {}; }
  int in_flight() const override { return 3; }
  int scale() const override { return 2; }
  const std::map<std::string, genedge::Code>& codes() const override { return codes_; }
  void set_code(const std::string&, const std::vector<double>&) override {}
  void set_codes(const std::map<std::string, std::vector<double>>&) override {}
  void reset() override { ++resets; }
  void prepare(cv::Size) override {}
  genedge::Pending submit(const cv::Mat& frame, cv::Mat& out) override {
    const bool fails = requests++ == fail_at_;
    sizes.push_back(frame.size());
    out.create(frame.size() * 2, CV_8UC3);
    return [=]() mutable {
      if (fails) throw genedge::Error("the fake failed");
      cv::resize(frame, out, out.size(), 0, 0, cv::INTER_NEAREST);
    };
  }

  int requests = 0, resets = 0;
  std::vector<cv::Size> sizes;

 private:
  int fail_at_;
  std::map<std::string, genedge::Code> codes_;
};

cv::Mat noise(cv::Size size) {
  cv::Mat image(size, CV_8UC3);
  cv::theRNG().state = 7;
  cv::randu(image, 0, 256);
  return image;
}

cv::Mat doubled(const cv::Mat& image) {
  cv::Mat result;
  cv::resize(image, result, image.size() * 2, 0, 0, cv::INTER_NEAREST);
  return result;
}

bool same(const cv::Mat& one, const cv::Mat& other) {
  return one.size() == other.size() && cv::norm(one, other, cv::NORM_INF) == 0;
}

void check_plans() {
  CHECK_EQUAL(spelled(genedge::plan_tiles({150, 100}, {64, 40}, 8, {1, 8}, false)),
              "[152 x 104][64 x 40] [0, 0][52 x 28 from (0, 0)] [40, 0][44 x 28 from (52, 0)] [88, 0][54 x 28 from (96, 0)] [0, 16][52 x 20 from (0, 28)] [40, 16][44 x 20 from (52, 28)] [88, 16][54 x 20 from (96, 28)] [0, 40][52 x 24 from (0, 48)] [40, 40][44 x 24 from (52, 48)] [88, 40][54 x 24 from (96, 48)] [0, 64][52 x 28 from (0, 72)] [40, 64][44 x 28 from (52, 72)] [88, 64][54 x 28 from (96, 72)]");
  CHECK_EQUAL(spelled(genedge::plan_tiles({20, 30}, {64, 64}, 10, {8, 4}, false)),
              "[20 x 32][20 x 32] [0, 0][20 x 30 from (0, 0)]");
  CHECK_EQUAL(spelled(genedge::plan_tiles({20, 30}, {64, 64}, 10, {8, 4}, true)),
              "[64 x 64][64 x 64] [0, 0][20 x 30 from (0, 0)]");
  CHECK_THROWS(UsageError, "the smallest tile is 24x24", genedge::plan_tiles({100, 100}, {16, 16}, 8, {1, 8}));
  CHECK_THROWS(UsageError, "use 40 instead of 34", genedge::plan_tiles({100, 100}, {34, 34}, 8, {1, 8}));
  CHECK_THROWS(UsageError, "nothing in it", genedge::plan_tiles({0, 5}, {32, 32}, 8, {1, 8}));
}

void check_every_pixel_once(cv::Size frame, cv::Size tile, int halo, const SizeRule& rule, bool fixed) {
  const auto plan = genedge::plan_tiles(frame, tile, halo, rule, fixed);
  cv::Mat count = cv::Mat::zeros(frame, CV_8U);
  for (const auto& each : plan.tiles) {
    count(each.part) += 1;
    const cv::Rect window(each.window, plan.tile);
    CHECK((window & cv::Rect({0, 0}, plan.padded)) == window);
    CHECK(each.part.x == 0 || each.part.x - window.x >= halo);
    CHECK(each.part.br().y == frame.height || window.br().y - each.part.br().y >= halo);
  }
  CHECK_EQUAL(cv::countNonZero(count != 1), 0);
}

void check_sessions() {
  const cv::Mat frame = noise({61, 47});
  for (const auto tile : {cv::Size(24, 24), cv::Size(64, 64), cv::Size(32, 40)}) {
    for (const bool fixed : {false, true}) {
      const auto session = genedge::tiled_session(std::make_unique<Doubling>(), tile, 4, {1, 8}, fixed);
      CHECK(same(session->infer(frame), doubled(frame)));
      const auto two = session->infer(std::vector<cv::Mat>{frame, frame});
      CHECK(same(two[0], two[1]));
    }
  }
  const auto padded = genedge::padded_session(std::make_unique<Doubling>(), {1, 16});
  CHECK(same(padded->infer(frame), doubled(frame)));
  CHECK(same(padded->infer(noise({32, 16})), doubled(noise({32, 16}))));  // fits: no copy
  const auto resized = genedge::resized_session(std::make_unique<Doubling>(), {32, 64});
  CHECK_EQUAL(resized->infer(frame).size(), frame.size() * 2);

  // both frames of a pair are under way when the second tile of the first one fails
  const auto broken = genedge::tiled_session(std::make_unique<Doubling>(1), {24, 24}, 4, {1, 8}, false);
  cv::Mat one, other;
  const auto first = broken->submit(frame, one), second = broken->submit(frame, other);
  CHECK_THROWS(genedge::Error, "the fake failed", first());
  second();
  CHECK(same(other, doubled(frame)));
}

void check_fit() {
  genedge::Geometry geometry;
  geometry.halo = 4;
  geometry.tileable = true;
  const auto fit = [&](cv::Size size, int tile) {
    return genedge::fit_session(std::make_unique<Doubling>(), geometry, size, tile);
  };
  CHECK_EQUAL(fit({1920, 1088}, -1)->in_flight(), 3);  // whole frames, as the inner session
  CHECK_EQUAL(fit({1920, 1089}, -1)->in_flight(), 2);  // tiles
  geometry.tileable = false;
  CHECK_THROWS(UsageError, "whole frames only", fit({64, 64}, 32));
  geometry.fixed_size = cv::Size(32, 32);
  CHECK_THROWS(UsageError, "takes frames of 32x32 only and cannot be tiled, but the input is 64x48", fit({64, 48}, -1));
  CHECK_THROWS(UsageError, "leave out --tile", fit({64, 48}, 32));
  geometry.resizes = true;
  CHECK_EQUAL(fit({64, 48}, -1)->infer(noise({64, 48})).size(), cv::Size(128, 96));
}

}  // namespace

int main() {
  check_plans();
  for (const auto& rule : {SizeRule{1, 1}, SizeRule{8, 4}, SizeRule{1, 8}}) {
    for (const int halo : {0, 3, 7}) {
      check_every_pixel_once({123, 77}, {32, 40}, halo, rule, false);
      check_every_pixel_once({20, 77}, {32, 40}, halo, rule, true);
      check_every_pixel_once({20, 9}, {32, 40}, halo, rule, false);
    }
  }
  check_sessions();
  check_fit();
  return result();
}
