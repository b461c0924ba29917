// The de-identifying source fails closed: whatever goes wrong, no frame leaves as it came.
#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include <opencv2/core.hpp>

#include "check.hpp"
#include "faces/watched.h"
#include "genedge/error.hpp"
#include "genedge/faces/deid.hpp"

using genedge::EndedEarlyError;
using genedge::Error;
using genedge::VideoError;
using genedge::VideoFrame;
using genedge::faces::Applied;
using genedge::faces::Box;
using genedge::faces::Cover;
using genedge::faces::DeidentifiedSource;
using genedge::faces::DeidSettings;
using genedge::faces::Face;
using genedge::faces::FaceDetector;
using genedge::faces::make_method;
using genedge::faces::Method;

namespace {

constexpr int kFrames = 10;
constexpr int kWhole = 48;  // grey level of a frame that is covered whole
const cv::Size kSize(160, 120);
const Box kFace{60, 40, 30, 36};

// Frames of noise, with a damaged one, and an error at the end, where wanted.
class Clip : public genedge::Source {
 public:
  Clip() {
    info_.size = kSize;
    info_.time_base = {1, 25};
    info_.uri = "clip";
  }

  std::optional<VideoFrame> read() override {
    if (count_ == kFrames) {
      if (breaks) throw EndedEarlyError("it broke off");
      return std::nullopt;
    }
    VideoFrame frame;
    frame.image.create(kSize, CV_8UC3);
    cv::RNG random(7);
    random.fill(frame.image, cv::RNG::UNIFORM, 60, 256);
    frame.pts = frame.index = count_++;
    frame.damaged = frame.index == damaged;
    return frame;
  }

  bool breaks = false;
  int damaged = -1;

 private:
  int count_ = 0;
};

using Answer = std::function<std::vector<Face>(const cv::Mat&, int call)>;

// Gives what `answer` says to the frames of the clip; `call` counts from 0.
class Detector : public FaceDetector {
 public:
  explicit Detector(Answer answer) : answer_(std::move(answer)) { low_ = 0.25; }

  std::vector<Face> detect(const cv::Mat& image, bool /*thorough*/) override { return answer_(image, calls_++); }
  std::vector<Face> glance(const cv::Mat& image, int /*number*/) override { return detect(image, false); }
  std::unique_ptr<FaceDetector> twin() const override { return std::make_unique<Detector>(answer_); }

 private:
  Answer answer_;
  int calls_ = 0;
};

Face face(double score = 0.9) { return {kFace, score, std::nullopt}; }

DeidSettings settings(int lookahead = 3) {
  DeidSettings result;
  result.guard.lookahead = lookahead;
  result.canary = false;
  result.recheck = false;
  return result;
}

struct Result {
  std::vector<cv::Mat> frames;
  genedge::faces::DeidCounts counts;
  std::string error;
};

Result run(Answer answer, const DeidSettings& how, std::unique_ptr<Method> method = make_method("solid"),
           std::unique_ptr<Clip> clip = std::make_unique<Clip>(), Answer check = nullptr) {
  auto detector = std::make_shared<Detector>(std::move(answer));
  auto checker = check ? std::make_shared<Detector>(std::move(check)) : nullptr;
  DeidentifiedSource source(std::move(clip), detector, std::move(method), how, checker);
  Result result;
  try {
    while (const auto frame = source.read()) result.frames.push_back(frame->image.clone());
  } catch (const std::exception& error) {
    result.error = error.what();
  }
  result.counts = source.counts();
  return result;
}

bool is_whole(const cv::Mat& image) { return cv::countNonZero(image.reshape(1) != kWhole) == 0; }

std::size_t whole_frames(const Result& result) {
  return static_cast<std::size_t>(std::count_if(result.frames.begin(), result.frames.end(), is_whole));
}

int whole_because(const Result& result, const std::string& reason) {
  for (const auto& [name, count] : result.counts.covered_whole) {
    if (name == reason) return count;
  }
  return 0;
}

bool covered(const cv::Mat& image) {
  const cv::Mat middle = image(cv::Rect(70, 50, 10, 10));
  cv::Mat difference;
  cv::absdiff(middle, cv::Mat(middle.size(), CV_8UC3, cv::Scalar(image.at<cv::Vec3b>(58, 75))), difference);
  return cv::countNonZero(difference.reshape(1)) == 0;
}

void test_a_seen_face_is_covered() {
  for (const int lookahead : {0, 3, 20}) {
    const Result result = run([](const cv::Mat&, int) { return std::vector<Face>{face()}; }, settings(lookahead));
    CHECK_EQUAL(result.frames.size(), static_cast<std::size_t>(kFrames));
    CHECK_EQUAL(whole_frames(result), 0u);
    for (const cv::Mat& image : result.frames) CHECK(covered(image));
    CHECK_EQUAL(result.counts.faces, kFrames);
    CHECK_EQUAL(result.counts.methods.size(), 1u);
  }
}

void test_a_detector_that_throws() {
  const Result result = run(
      [](const cv::Mat&, int call) -> std::vector<Face> {
        if (call == 4) throw Error("engine broke");
        return {face()};
      },
      settings());
  CHECK_EQUAL(result.frames.size(), static_cast<std::size_t>(kFrames));
  CHECK(is_whole(result.frames[4]));
  CHECK_EQUAL(whole_frames(result), 1u);
  CHECK_EQUAL(whole_because(result, "detector failed"), 1);
  CHECK_EQUAL(result.counts.whole_frames.size(), 1u);
  CHECK_EQUAL(result.counts.whole_frames[0].first, 4);
}

void test_numbers_that_are_none() {
  for (const double number : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const Result result = run(
        [number](const cv::Mat&, int) { return std::vector<Face>{face(), {{number, 1, 2, 3}, 0.9, std::nullopt}}; },
        settings());
    CHECK_EQUAL(whole_frames(result), static_cast<std::size_t>(kFrames));
  }
}

void test_a_detector_that_hangs() {
  DeidSettings how = settings();
  how.timeout = 0.1;
  const Result result = run(
      [](const cv::Mat&, int call) -> std::vector<Face> {
        if (call == 2) std::this_thread::sleep_for(std::chrono::milliseconds(400));
        return {face()};
      },
      how);
  CHECK_EQUAL(result.frames.size(), static_cast<std::size_t>(kFrames));
  CHECK(is_whole(result.frames[2]));
  CHECK(whole_because(result, "detector did not answer in time") > 0);
}

void test_a_method_that_fails() {
  struct Broken : Method {
    const std::string& name() const override { return name_; }
    std::vector<Applied> apply(cv::Mat&, const std::vector<Cover>&) override { throw Error("no"); }
    const std::string name_ = "broken";
  };
  struct Lazy : Broken {
    std::vector<Applied> apply(cv::Mat&, const std::vector<Cover>&) override { return {}; }
  };
  const Answer seen = [](const cv::Mat&, int) { return std::vector<Face>{face()}; };
  CHECK_EQUAL(whole_because(run(seen, settings(), std::make_unique<Broken>()), "method failed"), kFrames);
  CHECK_EQUAL(whole_frames(run(seen, settings(), std::make_unique<Lazy>())), static_cast<std::size_t>(kFrames));
}

void test_a_damaged_frame() {
  auto clip = std::make_unique<Clip>();
  clip->damaged = 5;
  const Result result = run([](const cv::Mat&, int) { return std::vector<Face>{}; }, settings(), make_method("solid"),
                            std::move(clip));
  CHECK_EQUAL(whole_frames(result), 1u);
  CHECK(is_whole(result.frames[5]));
}

void test_a_source_that_breaks_off() {
  auto clip = std::make_unique<Clip>();
  clip->breaks = true;
  const Result result = run([](const cv::Mat&, int) { return std::vector<Face>{face()}; }, settings(),
                            make_method("solid"), std::move(clip));
  CHECK_EQUAL(result.frames.size(), static_cast<std::size_t>(kFrames));
  for (const cv::Mat& image : result.frames) CHECK(covered(image));
  CHECK_EQUAL(result.error, "it broke off");
}

void test_a_detector_that_misses_the_canary() {
  DeidSettings how = settings();
  how.canary = true;
  const Result result = run([](const cv::Mat&, int) { return std::vector<Face>{}; }, how);
  CHECK_EQUAL(whole_frames(result), static_cast<std::size_t>(kFrames));
  CHECK_EQUAL(whole_because(result, "detector missed the test face"), kFrames);
  CHECK(result.counts.canaries_missed > 0);
}

void test_what_is_found_in_the_result() {
  DeidSettings how = settings();
  how.recheck = true;
  const Box elsewhere{110, 70, 24, 30};
  const Answer nothing = [](const cv::Mat&, int) { return std::vector<Face>{}; };
  Result result = run(nothing, how, make_method("solid"), std::make_unique<Clip>(), [&](const cv::Mat&, int call) {
    return call == 0 ? std::vector<Face>{{elsewhere, 0.8, std::nullopt}} : std::vector<Face>{};
  });
  CHECK_EQUAL(whole_frames(result), 0u);
  CHECK_EQUAL(result.counts.rechecks, 1);
  CHECK_EQUAL(result.counts.fallbacks.size(), 1u);
  // the frames after it are not decided yet, and cover it as one that was seen
  CHECK(result.counts.kinds[static_cast<std::size_t>(genedge::faces::CoverKind::held)] > 0);

  // a face that turns up in a new place every time
  result = run(nothing, how, make_method("solid"), std::make_unique<Clip>(), [](const cv::Mat&, int call) {
    return std::vector<Face>{{{static_cast<double>(call * 37 % 120), static_cast<double>(call * 29 % 80), 12, 14}, 0.8,
                              std::nullopt}};
  });
  CHECK(whole_because(result, "a face is still found in the result") > 0);

  result = run(nothing, how, make_method("solid"), std::make_unique<Clip>(),
               [](const cv::Mat&, int) -> std::vector<Face> { throw Error("engine broke"); });
  CHECK_EQUAL(whole_because(result, "check failed"), kFrames);
}

void test_how_much_is_replaced() {
  using genedge::faces::replaced_share;
  CHECK_EQUAL(replaced_share(kFace, {kFace.scaled(1.6, 1.8)}, kSize), 1.0);
  CHECK_EQUAL(replaced_share(kFace, {}, kSize), 0.0);
  CHECK_EQUAL(replaced_share({500, 500, 10, 10}, {}, kSize), 1.0);
  const double half = replaced_share({0, 0, 100, 20}, {{-500, -500, 550, 1200}}, kSize);
  CHECK(half > 0.4 && half < 0.6);
}

void test_calls_that_are_given_up() {
  genedge::faces::WatchedThread thread(0.05);
  auto slow = thread.call<int>([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return 1;
  });
  auto behind = thread.call<int>([] { return 2; });
  CHECK_THROWS(genedge::faces::CallTimeout, "in time", slow.result());
  CHECK_THROWS(genedge::faces::CallTimeout, "in time", behind.result());
  auto refused = thread.call<int>([] { return 3; });
  CHECK_THROWS(genedge::faces::CallTimeout, "in time", refused.result());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK_EQUAL(thread.call<int>([] { return 4; }).result(), 4);
  auto broken = thread.call<int>([]() -> int { throw Error("no"); });
  CHECK_THROWS(Error, "no", broken.result());
}

}  // namespace

int main() {
  test_a_seen_face_is_covered();
  test_a_detector_that_throws();
  test_numbers_that_are_none();
  test_a_detector_that_hangs();
  test_a_method_that_fails();
  test_a_damaged_frame();
  test_a_source_that_breaks_off();
  test_a_detector_that_misses_the_canary();
  test_what_is_found_in_the_result();
  test_how_much_is_replaced();
  test_calls_that_are_given_up();
  return result();
}
