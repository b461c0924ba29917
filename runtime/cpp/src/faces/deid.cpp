#include "genedge/faces/deid.hpp"

#include <algorithm>
#include <cmath>
#include <deque>
#include <exception>
#include <limits>

#include "beginnings.hpp"
#include "faces/blend.h"
#include "faces/canary.h"
#include "faces/watched.h"
#include "genedge/error.hpp"

namespace genedge::faces {
namespace {

constexpr double kCanarySeconds = 1.0;
constexpr int kRecheckRounds = 6;  // searches of the result after which the whole frame is covered
constexpr double kInside = 0.8;    // share of a hit's pixels that must be replaced for it to be what was drawn

// A frame that waits for its verdict. `index`: counted here, whatever the source says.
struct Held {
  VideoFrame frame;
  int index;
};

// A covered frame whose result is searched once more; no `call`: not needed.
struct Checking {
  VideoFrame frame;
  Verdict verdict;
  std::vector<Cover> covers;
  std::vector<Applied> applied;
  std::optional<Call<std::vector<Face>>> call;
};

void count(Tally& tally, const std::string& name) {
  const auto known = std::find_if(tally.begin(), tally.end(), [&](const auto& entry) { return entry.first == name; });
  if (known != tally.end()) {
    ++known->second;
  } else {
    tally.emplace_back(name, 1);
  }
}

void refuse(Verdict& verdict, const std::string& reason) {
  verdict.ok = false;
  verdict.reason = reason;
}

// Throws Error where a number is none.
std::vector<Face> valid(std::vector<Face> faces) {
  for (const Face& face : faces) {
    bool finite = std::isfinite(face.box.x) && std::isfinite(face.box.y) && std::isfinite(face.box.width) &&
                  std::isfinite(face.box.height) && std::isfinite(face.score);
    for (std::size_t place = 0; face.landmarks && place < face.landmarks->size(); ++place) {
      finite = finite && std::isfinite((*face.landmarks)[place].x) && std::isfinite((*face.landmarks)[place].y);
    }
    if (!finite) throw Error("the face detector gave a number that is none");
  }
  return faces;
}

std::vector<Box> regions_of(const std::vector<Cover>& covers, bool only_rechecked = false) {
  std::vector<Box> regions;
  for (const Cover& cover : covers) {
    if (!only_rechecked || cover.kind == CoverKind::rechecked) regions.push_back(cover.region);
  }
  return regions;
}

}  // namespace

int DeidCounts::covered_whole_frames() const {
  int sum = 0;
  for (const auto& [reason, frames] : covered_whole) sum += frames;
  return sum;
}

class DeidentifiedSource::Impl {
 public:
  Impl(std::unique_ptr<Source> from, std::shared_ptr<FaceDetector> detector, std::unique_ptr<Method> method,
       const DeidSettings& settings, std::shared_ptr<FaceDetector> checker)
      : source(std::move(from)),
        guard(settings.guard),
        settings_(settings),
        detector_(std::move(detector)),
        checker_(std::move(checker)),
        method_(std::move(method)),
        solid_(make_method("solid")),
        begins_(true, source->info().time_base),
        engines_(settings.timeout) {
    if (settings.canary) canary_ = std::make_shared<Canary>(source->info().size);
    if (checker_ && checker_ != detector_) check_engines_ = std::make_unique<WatchedThread>(settings.timeout);
  }

  std::optional<VideoFrame> read() {
    while (true) {
      std::optional<VideoFrame> released;
      std::optional<Verdict> verdict = guard.pop();
      if (verdict) {
        released = checked();
        cover(*verdict);
        if (settings_.guard.lookahead == 0 && !released) released = checked();
      } else if (ended_) {
        released = checked();
      }
      if (released) return released;
      if (verdict) continue;
      if (ended_ && !detecting_ && held_.empty()) {
        if (error_) std::rethrow_exception(error_);
        return std::nullopt;
      }
      advance();
    }
  }

  const std::unique_ptr<Source> source;
  Guard guard;
  DeidCounts counts;

 private:
  struct Detecting {
    Held held;
    bool anew;
    Call<std::vector<Face>> call;
  };

  // -- frames in -------------------------------------------------------------------------------

  double seconds_of(const VideoFrame& frame) const {
    const Rational& base = source->info().time_base;
    return static_cast<double>(frame.pts) * static_cast<double>(base.num) / static_cast<double>(base.den);
  }

  // Read one frame and start the search for faces in it; take note of those in the frame before.
  void advance() {
    std::optional<VideoFrame> frame = read_source();
    if (!frame) {
      note_detection();
      ended_ = true;
      guard.finish();
      return;
    }
    const Held held{*frame, count_++};
    const bool anew = begins_(*frame);
    counts.cuts = begins_.cuts;
    const double pts = seconds_of(*frame);
    ask_canary(pts);
    bool thorough = anew || held.index == 0;
    if (settings_.thorough_every > 0 && pts >= next_thorough_) thorough = true;
    if (thorough) next_thorough_ = pts + settings_.thorough_every;
    // given before the answer for the last one is waited for, so that the engine always has something to do
    Detecting detecting{held, anew,
                        engines_.call<std::vector<Face>>([detector = detector_, image = frame->image, thorough] {
                          return detector->detect(image, thorough);
                        })};
    note_detection();
    held_.push_back(held);
    detecting_ = std::move(detecting);
    if (settings_.guard.lookahead == 0) note_detection();
  }

  std::optional<VideoFrame> read_source() {
    if (ended_) return std::nullopt;
    try {
      return source->read();
    } catch (const EndedEarlyError& error) {
      error_ = std::make_exception_ptr(VideoError(error.what()));
    } catch (...) {  // what was read before is still given, covered
      error_ = std::current_exception();
    }
    return std::nullopt;
  }

  void note_detection() {
    if (!detecting_) return;
    Detecting detecting = std::move(*detecting_);
    detecting_.reset();
    const auto& [held, anew, call] = detecting;
    const double pts = seconds_of(held.frame);
    const cv::Mat& image = held.frame.image;
    std::vector<Face> faces;
    try {
      faces = valid(detecting.call.result());
    } catch (const CallTimeout&) {
      return guard.fail(held.index, pts, image, "detector did not answer in time", anew);
    } catch (...) {
      return guard.fail(held.index, pts, image, "detector failed", anew);
    }
    if (distrusted_.empty()) {
      guard.push(held.index, pts, image, faces, anew);
    } else {
      guard.fail(held.index, pts, image, distrusted_, anew);
    }
  }

  // Whether the engines still find a face that is known to be there.
  void ask_canary(double pts) {
    if (!canary_ || (pts < next_canary_ && distrusted_.empty())) return;
    next_canary_ = pts + kCanarySeconds;
    ++counts.canaries;
    const auto asked = [this](WatchedThread& engines, const std::shared_ptr<FaceDetector>& detector) {
      return engines.call<bool>([canary = canary_, detector] { return canary->check(*detector); });
    };
    bool found = false;
    try {
      Call<bool> first = asked(engines_, detector_);
      std::optional<Call<bool>> second;
      if (check_engines_) second = asked(*check_engines_, checker_);
      found = first.result() && (!second || second->result());
    } catch (...) {
      found = false;
    }
    distrusted_ = found ? "" : "detector missed the test face";
    counts.canaries_missed += !found;
  }

  // -- frames out ------------------------------------------------------------------------------

  // Cover the oldest frame as `verdict` says, and start the check of the result.
  void cover(Verdict verdict) {
    const Held held = held_.front();
    held_.pop_front();
    cv::Mat image = held.frame.image;
    if (verdict.index != held.index) verdict = {held.index, false, {}, "no verdict for this frame"};
    if (verdict.ok && !distrusted_.empty()) refuse(verdict, distrusted_);
    if (verdict.ok && held.frame.damaged) refuse(verdict, "frame is damaged");  // half a face is not found, and known
    std::vector<Applied> applied;
    if (verdict.ok) {
      try {
        applied = method_->apply(image, verdict.covers);
        if (applied.size() != verdict.covers.size()) throw Error("the method left out a face");
      } catch (...) {
        refuse(verdict, "method failed");
      }
    }
    if (!verdict.ok) cover_whole(image);
    std::optional<Call<std::vector<Face>>> call;
    if (verdict.ok && settings_.recheck) call = search(image, verdict.index);
    std::vector<Cover> covers = verdict.covers;
    checking_ = Checking{held.frame, std::move(verdict), std::move(covers), std::move(applied), std::move(call)};
  }

  // Look for faces in a result; `number`: which of the scales will do, 0 all of them.
  Call<std::vector<Face>> search(const cv::Mat& image, int number = 0) {
    WatchedThread& engines = check_engines_ ? *check_engines_ : engines_;
    if (checker_ && number != 0) {
      return engines.call<std::vector<Face>>(
          [checker = checker_, image, number] { return checker->glance(image, number); });
    }
    return engines.call<std::vector<Face>>(
        [checker = checker_ ? checker_ : detector_, image] { return checker->detect(image); });
  }

  // The frame whose result is being checked, once it is.
  std::optional<VideoFrame> checked() {
    if (!checking_) return std::nullopt;
    Checking check = std::move(*checking_);
    checking_.reset();
    if (check.call) {
      const std::string reason = covered_again(check);
      if (!reason.empty()) {
        cover_whole(check.frame.image);
        refuse(check.verdict, reason);
      }
    }
    ++counts.frames;
    if (check.verdict.ok) {
      add_covers(check);
    } else {
      count(counts.covered_whole, check.verdict.reason);
      auto& runs = counts.whole_frames;
      if (!runs.empty() && runs.back().second + 1 == check.verdict.index) {
        runs.back().second = check.verdict.index;
      } else {
        runs.emplace_back(check.verdict.index, check.verdict.index);
      }
    }
    return check.frame;
  }

  void add_covers(const Checking& check) {
    counts.faces += static_cast<int>(check.covers.size());
    for (const Cover& cover : check.covers) ++counts.kinds[static_cast<std::size_t>(cover.kind)];
    for (const Applied& entry : check.applied) {
      count(counts.methods, entry.method);
      if (!entry.reason.empty()) count(counts.fallbacks, entry.reason);
    }
  }

  // Cover what is still found in the result; why all of the frame has to be, else nothing.
  std::string covered_again(Checking& check) {
    cv::Mat& image = check.frame.image;
    const int index = check.verdict.index;
    try {
      for (int left = kRecheckRounds - 1; left >= 0; --left) {
        std::vector<Cover> more;
        for (const Face& hit : valid(check.call->result())) {
          if (uncovered(hit, check.covers, image.size())) more.push_back(guard.add_late(index, hit));
        }
        if (more.empty()) return "";
        ++counts.rechecks;
        solid_->apply(image, more);
        for (const Cover& cover : more) {
          check.covers.push_back(cover);
          check.applied.push_back({cover.track, "solid", "found in the result"});
        }
        if (left > 0) check.call = search(image);  // else nobody reads what it finds
      }
    } catch (const CallTimeout&) {
      return "check did not answer in time";
    } catch (...) {
      return "check failed";
    }
    return "a face is still found in the result";
  }

  // Whether a face that was found in the result, of `size`, is none that the method has drawn.
  bool uncovered(const Face& hit, const std::vector<Cover>& covers, cv::Size size) const {
    if (replaced_share(hit.box, regions_of(covers), size) < kInside) return true;
    const std::string& name = method_->name();
    if (name == "solid" || name == "average" || name == "generator" || hit.score < settings_.guard.high) return false;
    // a face that can be found through the mosaic or the blur is told too much of
    return replaced_share(hit.box, regions_of(covers, true), size) < kInside;
  }

  const DeidSettings settings_;
  const std::shared_ptr<FaceDetector> detector_;
  const std::shared_ptr<FaceDetector> checker_;
  const std::unique_ptr<Method> method_;
  const std::unique_ptr<Method> solid_;
  std::shared_ptr<const Canary> canary_;
  Beginnings begins_;
  WatchedThread engines_;
  std::unique_ptr<WatchedThread> check_engines_;
  std::deque<Held> held_;
  std::optional<Detecting> detecting_;
  std::optional<Checking> checking_;
  bool ended_ = false;
  std::exception_ptr error_;
  std::string distrusted_;  // why the detector's word is not taken, empty: it is
  double next_canary_ = -std::numeric_limits<double>::infinity();
  double next_thorough_ = -std::numeric_limits<double>::infinity();
  int count_ = 0;
};

DeidentifiedSource::DeidentifiedSource(std::unique_ptr<Source> source, std::shared_ptr<FaceDetector> detector,
                                       std::unique_ptr<Method> method, const DeidSettings& settings,
                                       std::shared_ptr<FaceDetector> checker) {
  info_ = source->info();
  impl_ = std::make_unique<Impl>(std::move(source), std::move(detector), std::move(method), settings,
                                 std::move(checker));
}

DeidentifiedSource::~DeidentifiedSource() = default;

std::optional<VideoFrame> DeidentifiedSource::read() { return impl_->read(); }

void DeidentifiedSource::interrupt() { impl_->source->interrupt(); }

std::int64_t DeidentifiedSource::dropped() const { return impl_->source->dropped(); }

std::vector<std::string> DeidentifiedSource::warnings() const { return impl_->source->warnings(); }

const DeidCounts& DeidentifiedSource::counts() const { return impl_->counts; }

const Guard& DeidentifiedSource::guard() const { return impl_->guard; }

double replaced_share(const Box& box, const std::vector<Box>& regions, cv::Size size) {
  const auto whole = [](double value, int least, int most) {
    return static_cast<int>(std::clamp(value, static_cast<double>(least), static_cast<double>(most)));
  };
  const Window window{whole(std::floor(box.x), 0, size.width), whole(std::floor(box.y), 0, size.height),
                      whole(std::ceil(box.x + box.width), 0, size.width),
                      whole(std::ceil(box.y + box.height), 0, size.height)};
  if (window.empty()) return 1.0;
  cv::Mat replaced = cv::Mat::zeros(window.height(), window.width(), CV_8UC1);
  for (const Box& region : regions) {
    const Window changed = changed_window(region, size.width, size.height);
    if ((changed.rect() & window.rect()).empty() || changed.empty()) continue;
    replaced |= distance(region, window) <= 1;
  }
  return static_cast<double>(cv::countNonZero(replaced)) / static_cast<double>(replaced.total());
}

}  // namespace genedge::faces
