//     source.read --queue--> stage 0: submit - collect --queue--> stage 1 ... --queue--> sink.write
//
// How it ends: see runtime/pipeline.py, whose table this follows, except that a call that never returns is waited for.

#include "genedge/pipeline.hpp"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "live.hpp"
#include "stats.hpp"

namespace genedge {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(50);

/// A bounded queue for one thread at either end, that can be closed from both; nobody waits on it for ever.
/// `hand_over`: `put` also waits until the item is taken.
template <typename T>
class Channel {
 public:
  Channel(std::size_t size, bool hand_over) : size_(size), hand_over_(hand_over) {}

  /// Wait until somebody waits for an item. False: the channel is closed.
  bool wanted() {
    std::unique_lock<std::mutex> held(lock_);
    changed_.wait(held, [&] { return (asking_ && items_.empty()) || closed_; });
    return !closed_;
  }

  /// Wait for room. False: the channel is closed and the item was not taken.
  bool put(T item) {
    std::unique_lock<std::mutex> held(lock_);
    changed_.wait(held, [&] { return items_.size() < size_ || closed_; });
    if (closed_) return false;
    items_.push_back(std::move(item));
    changed_.notify_all();
    if (hand_over_) changed_.wait(held, [&] { return items_.empty() || closed_; });
    return true;
  }

  /// Wait for an item. Nothing: the channel is closed and empty.
  std::optional<T> get() {
    std::unique_lock<std::mutex> held(lock_);
    asking_ = true;
    changed_.notify_all();
    changed_.wait(held, [&] { return !items_.empty() || closed_; });
    asking_ = false;
    if (items_.empty()) return std::nullopt;
    T item = std::move(items_.front());
    items_.pop_front();
    changed_.notify_all();
    return item;
  }

  /// No more items; what is in it can still be taken, unless it is dropped.
  void close(bool drop = false) {
    const std::lock_guard<std::mutex> held(lock_);
    closed_ = true;
    if (drop) items_.clear();
    changed_.notify_all();
  }

 private:
  std::size_t size_;
  bool hand_over_;
  std::mutex lock_;
  std::condition_variable changed_;
  std::deque<T> items_;
  bool asking_ = false, closed_ = false;
};

/// Output images for use again.
class Ring {
 public:
  cv::Mat take() {
    const std::lock_guard<std::mutex> held(lock_);
    if (free_.empty()) return {};
    cv::Mat image = std::move(free_.back());
    free_.pop_back();
    return image;
  }
  void give(cv::Mat image) {
    const std::lock_guard<std::mutex> held(lock_);
    free_.push_back(std::move(image));
  }

 private:
  std::mutex lock_;
  std::vector<cv::Mat> free_;
};

/// A frame on its way, and the ring that its image's memory came from.
struct Item {
  VideoFrame frame;
  Ring* ring = nullptr;
  double begun = 0;   // when its decoding began
  bool anew = false;  // it knows nothing of the frames before it

  /// The image has been read for the last time.
  void free() {
    if (ring != nullptr) ring->give(std::move(frame.image));
    frame.image = cv::Mat();
  }
};

/// Latency of a stage, and the time in which it was busy.
struct Clock {
  LatencyRecorder latency;
  double busy = 0, until = 0;

  void add(double begin, double end) {
    latency.add(end - begin);
    busy += std::max(0.0, end - std::max(begin, until));
    until = std::max(end, until);
  }
};

class Slots {
 public:
  explicit Slots(int count) : free_(count) {}
  void acquire() {
    std::unique_lock<std::mutex> held(lock_);
    changed_.wait(held, [&] { return free_ > 0; });
    --free_;
  }
  void release() {
    {
      const std::lock_guard<std::mutex> held(lock_);
      ++free_;
    }
    changed_.notify_one();
  }

 private:
  std::mutex lock_;
  std::condition_variable changed_;
  int free_;
};

struct UnderWay {
  Item item;
  cv::Mat out;
  Pending pending;
  double begin = 0;
};

struct Stage {
  Stage(Session& own, bool newest)
      : session(own), slots(newest ? 1 : std::max(1, own.in_flight())),
        pending(static_cast<std::size_t>(std::max(1, own.in_flight())), false) {}

  Session& session;
  Slots slots;
  Channel<UnderWay> pending;
  Ring ring;
  Clock clock;
};

class Run {
 public:
  Run(Source& source, const std::vector<Session*>& sessions, Sink& sink, const PipelineOptions& options,
      const std::atomic<int>& stop)
      : source_(source), sink_(sink), options_(options), stop_(stop) {
    const std::size_t size = options.newest ? 1 : static_cast<std::size_t>(options.queue_size);
    for (std::size_t i = 0; i <= sessions.size(); ++i) {
      channels_.push_back(std::make_unique<Channel<Item>>(size, options.newest));
    }
    for (Session* session : sessions) stages_.push_back(std::make_unique<Stage>(*session, options.newest));
  }

  void run(PipelineReport& report) {
    const double begun = steady_seconds();
    std::vector<std::thread> threads;
    threads.emplace_back([this] { writes(); });
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      threads.emplace_back([this, i] { collects(i); });
      threads.emplace_back([this, i] { submits(i); });
    }
    threads.emplace_back([this] { reads(); });
    watch();
    for (std::thread& thread : threads) thread.join();
    finalise();
    report = summary(steady_seconds() - begun);
    if (error_) std::rethrow_exception(error_);
    if (ended_early_) std::rethrow_exception(ended_early_);
  }

 private:
  // -- called by the workers --------------------------------------------------------------------------------------

  /// Keep the first error and stop reading.
  void fail(std::exception_ptr error) {
    const std::lock_guard<std::mutex> held(lock_);
    if (!error_) error_ = std::move(error);
    ending_ = true;
  }

  bool failed() {
    const std::lock_guard<std::mutex> held(lock_);
    return error_ != nullptr;
  }

  void discard_upto(std::size_t index) {
    for (std::size_t i = 0; i <= index; ++i) channels_[i]->close(true);
  }

  bool interrupted() const { return stop_.load() != 0; }

  void reads() {
    auto& onward = *channels_[0];
    try {
      for (std::int64_t count = 0; !ending_ && !interrupted(); ++count) {
        if (options_.max_frames && count >= *options_.max_frames) break;
        if (options_.newest && !onward.wanted()) break;
        Item item;
        item.begun = steady_seconds();
        auto frame = source_.read();
        if (!frame) break;
        read_.add(item.begun, steady_seconds());
        item.frame = std::move(*frame);
        item.anew = options_.begins && options_.begins(item.frame);
        if (!onward.put(std::move(item))) break;
      }
    } catch (const EndedEarlyError&) {
      ended_early_ = std::current_exception();
    } catch (...) {
      fail(std::current_exception());
    }
    onward.close();
  }

  void submits(std::size_t index) {
    Stage& stage = *stages_[index];
    try {
      for (;;) {
        stage.slots.acquire();
        auto item = channels_[index]->get();
        if (!item) break;
        UnderWay next{std::move(*item), stage.ring.take(), {}, steady_seconds()};
        if (next.item.anew) stage.session.reset();
        next.pending = stage.session.submit(next.item.frame.image, next.out);
        stage.pending.put(std::move(next));
      }
    } catch (...) {  // what was submitted before is still collected and written
      fail(std::current_exception());
      discard_upto(index);
    }
    stage.pending.close();
  }

  void collects(std::size_t index) {
    Stage& stage = *stages_[index];
    auto& onward = *channels_[index + 1];
    bool forward = true;
    while (auto next = stage.pending.get()) {
      try {
        next->pending();
      } catch (...) {
        fail(std::current_exception());
        discard_upto(index);
        onward.close();
        forward = false;
        stage.slots.release();
        continue;
      }
      if (!options_.newest) stage.slots.release();
      stage.clock.add(next->begin, steady_seconds());
      Item item{next->item.frame, &stage.ring, next->item.begun, next->item.anew};
      item.frame.image = next->out;
      next->item.free();
      next->out = cv::Mat();
      forward = forward && onward.put(std::move(item));
      if (options_.newest) stage.slots.release();  // the frame has left this stage: only now is the next one taken
    }
    onward.close();
  }

  void writes() {
    try {
      while (auto item = channels_.back()->get()) {
        const double begin = steady_seconds();
        sink_.write(item->frame);
        const double end = steady_seconds();
        const auto captured = item->frame.captured;
        const double begun = item->begun;
        item->free();
        write_.add(begin, end);
        whole_.add(end - begun);
        if (captured) since_capture_.add(end - *captured);
        ++frames_;
        if (options_.progress) options_.progress(frames_);
        if (sink_.stop_requested()) ending_ = true;
      }
    } catch (...) {
      fail(std::current_exception());
    }
    ending_ = true;
    discard_upto(channels_.size() - 1);
    finalise();
    {
      const std::lock_guard<std::mutex> held(lock_);
      written_ = true;
    }
    changed_.notify_all();
  }

  /// Close or abort the sink, whichever fits; only the first call does it.
  void finalise() {
    if (finalised_.exchange(true)) return;
    try {
      if (!failed() && !interrupted()) {
        try {
          sink_.close();
          return;
        } catch (...) {
          fail(std::current_exception());
        }
      }
      sink_.abort();
    } catch (...) {
      fail(std::current_exception());  // an error that came first stays the first
    }
  }

  // -- the caller's thread ----------------------------------------------------------------------------------------

  /// Carry out what ends the run.
  void watch() {
    bool told = false;
    std::unique_lock<std::mutex> held(lock_);
    while (!changed_.wait_for(held, kPoll, [&] { return written_; })) {
      if (told || !(ending_ || interrupted())) continue;
      told = ending_ = true;
      held.unlock();
      channels_[0]->close(interrupted());  // also while the source is inside read(): the others end without it
      source_.interrupt();
      held.lock();
    }
    held.unlock();
    source_.interrupt();
  }

  PipelineReport summary(double seconds) const {
    PipelineReport report;
    report.frames = frames_;
    report.dropped = source_.dropped();
    report.seconds = seconds;
    report.fps = seconds > 0 ? static_cast<double>(frames_) / seconds : 0;
    report.stopped = interrupted();
    const auto add = [&](const std::string& name, const Clock& clock) {
      if (clock.latency.count()) report.latency[name] = clock.latency.summary();
      report.utilisation[name] = std::min(1.0, clock.busy / seconds);
    };
    add("read", read_);
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      add(stages_.size() == 1 ? "infer" : "infer " + std::to_string(i + 1), stages_[i]->clock);
    }
    add("write", write_);
    if (whole_.count()) report.latency["frame"] = whole_.summary();
    if (since_capture_.count()) report.latency["capture"] = since_capture_.summary();
    report.peak_rss_bytes = peak_rss_bytes();
    report.rss_end_bytes = current_rss_bytes();
    return report;
  }

  Source& source_;
  Sink& sink_;
  const PipelineOptions& options_;
  const std::atomic<int>& stop_;
  std::vector<std::unique_ptr<Channel<Item>>> channels_;  // channel i leads into stage i, the last one into the sink
  std::vector<std::unique_ptr<Stage>> stages_;
  Clock read_, write_;
  LatencyRecorder whole_, since_capture_;
  std::int64_t frames_ = 0;
  std::mutex lock_;
  std::condition_variable changed_;
  bool written_ = false;
  std::atomic<bool> ending_{false}, finalised_{false};
  std::exception_ptr error_, ended_early_;
};

}  // namespace

void run_pipeline(Source& source, const std::vector<Session*>& stages, Sink& sink, const PipelineOptions& options,
                  const std::atomic<int>& stop, PipelineReport& report) {
  Run(source, stages, sink, options, stop).run(report);
}

}  // namespace genedge
