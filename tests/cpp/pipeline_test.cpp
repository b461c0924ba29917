// How a pipeline ends: whatever fails, everything before it is written, the sink is finalised once, and nothing hangs.
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "beginnings.hpp"
#include "check.hpp"
#include "genedge/pipeline.hpp"
#include "live.hpp"

using genedge::VideoFrame;

namespace {

/// Frames whose pixels all have the frame's number. `ends` says how it ends after `count` of them.
class Numbers : public genedge::Source {
 public:
  enum class End { well, early, error, waiting };

  Numbers(int count, End ends, bool live = false) : count_(count), ends_(ends) {
    info_.size = {16, 8};
    info_.time_base = {1, 100};
    info_.live = live;
  }

  std::optional<VideoFrame> read() override {
    if (given_ == count_) {
      if (ends_ == End::early) throw genedge::EndedEarlyError("broke off");
      if (ends_ == End::error) throw genedge::VideoError("the source failed");
      while (ends_ == End::waiting && !interrupted_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return std::nullopt;
    }
    VideoFrame frame;
    frame.image = cv::Mat(info_.size, CV_8UC3, cv::Scalar::all(given_));
    frame.pts = frame.index = given_++;
    if (info_.live) frame.captured = genedge::steady_seconds();
    return frame;
  }

  void interrupt() override { interrupted_ = true; }

 private:
  int count_, given_ = 0;
  End ends_;
  std::atomic<bool> interrupted_{false};
};

class Slow : public genedge::Session {
 public:
  Slow(int milliseconds, int fail_at) : milliseconds_(milliseconds), fail_at_(fail_at) {}
  genedge::EngineInfo info() const override { return {}; }
  int in_flight() const override { return 2; }
  int scale() const override { return 1; }
  const std::map<std::string, genedge::Code>& codes() const override { return codes_; }
  void set_code(const std::string&, const std::vector<double>&) override {}
  void set_codes(const std::map<std::string, std::vector<double>>&) override {}
  void reset() override { ++resets; }
  void prepare(cv::Size) override {}
  genedge::Pending submit(const cv::Mat& frame, cv::Mat& out) override {
    out.create(frame.size(), CV_8UC3);
    const bool fails = requests_++ == fail_at_;
    return [this, frame, out, fails]() mutable {
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds_));
      if (fails) throw genedge::Error("the session failed");
      frame.copyTo(out);
    };
  }

  int resets = 0;

 private:
  int milliseconds_, fail_at_, requests_ = 0;
  std::map<std::string, genedge::Code> codes_;
};

class Recording : public genedge::Sink {
 public:
  explicit Recording(int fail_at = -1) : fail_at_(fail_at) {}
  void write(const VideoFrame& frame) override {
    if (frames_written_ == fail_at_) throw genedge::VideoError("the sink failed");
    in_order = in_order && frame.image.at<cv::Vec3b>(3, 5)[1] == frame.index && frame.index > last_;
    last_ = frame.index;
    ++frames_written_;
    ++written;
  }
  void close() override { ended += "closed "; }
  void abort() override { ended += "aborted "; }

  std::string ended;
  bool in_order = true;
  std::atomic<int> written{0};  // for other threads

 private:
  std::int64_t fail_at_, last_ = -1;
};

struct Outcome {
  std::string error, ended;
  std::int64_t written;
  bool in_order;
};

Outcome run(Numbers::End ends, int session_fails = -1, int sink_fails = -1, int stop_after = -1, int stages = 2) {
  Numbers source(20, ends);
  std::vector<std::unique_ptr<Slow>> own;
  std::vector<genedge::Session*> sessions;
  for (int i = 0; i < stages; ++i) {
    own.push_back(std::make_unique<Slow>(1, i == 0 ? session_fails : -1));
    sessions.push_back(own.back().get());
  }
  Recording sink(sink_fails);
  std::atomic<int> stop{0};
  std::thread stopper([&] {
    if (stop_after < 0) return;
    while (sink.written < stop_after) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stop = 1;
  });
  genedge::PipelineReport report;
  std::string error;
  try {
    genedge::run_pipeline(source, sessions, sink, {}, stop, report);
  } catch (const genedge::Error& problem) {
    error = problem.what();
  }
  stopper.join();
  CHECK_EQUAL(report.frames, sink.frames_written());
  return {error, sink.ended, sink.frames_written(), sink.in_order};
}

void check_outcome(const Outcome& outcome, const std::string& error, const std::string& ended, std::int64_t written) {
  CHECK_EQUAL(outcome.error, error);
  CHECK_EQUAL(outcome.ended, ended);
  CHECK(outcome.in_order);
  if (written >= 0) CHECK_EQUAL(outcome.written, written);
}

void check_ends() {
  using End = Numbers::End;
  check_outcome(run(End::well), "", "closed ", 20);
  check_outcome(run(End::well, -1, -1, -1, 0), "", "closed ", 20);
  check_outcome(run(End::early), "broke off", "closed ", 20);
  check_outcome(run(End::error), "the source failed", "aborted ", 20);
  check_outcome(run(End::well, 7), "the session failed", "aborted ", 7);
  check_outcome(run(End::well, 0), "the session failed", "aborted ", 0);
  check_outcome(run(End::well, -1, 5), "the sink failed", "aborted ", 5);
  check_outcome(run(End::waiting, -1, -1, 20), "", "aborted ", 20);  // a camera that gives nothing any more
}

void check_newest() {
  auto source = genedge::newest_source(std::make_unique<Numbers>(200, Numbers::End::well, true), 0, true);
  Slow session(3, -1);
  Recording sink;
  genedge::PipelineOptions options;
  options.newest = true;
  genedge::PipelineReport report;
  const std::atomic<int> stop{0};
  genedge::run_pipeline(*source, {&session}, sink, options, stop, report);
  CHECK(sink.frames_written() >= 1);
  CHECK(sink.frames_written() + report.dropped <= 200);
  CHECK_EQUAL(report.latency.at("capture").count, sink.frames_written());
}

void check_beginnings() {
  genedge::Beginnings begins(true, {1, 25});
  Slow session(0, -1);
  Recording sink;
  genedge::PipelineOptions options;
  options.begins = [&](const VideoFrame& frame) { return frame.index == 4; };
  genedge::PipelineReport report;
  const std::atomic<int> stop{0};
  Numbers source(10, Numbers::End::well);
  genedge::run_pipeline(source, {&session}, sink, options, stop, report);
  CHECK_EQUAL(session.resets, 1);

  genedge::GapDetector is_gap;
  for (const double time : {0.0, 0.04, 0.08, 0.12, 0.16}) CHECK(!is_gap(time));
  CHECK(is_gap(5.0));
  CHECK(!is_gap(5.04));
  CHECK(is_gap(1.0));
}

}  // namespace

int main() {
  check_ends();
  check_newest();
  check_beginnings();
  return result();
}
