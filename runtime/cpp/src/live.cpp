#include "live.hpp"

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace genedge {
namespace {

class NewestSource : public Source {
 public:
  NewestSource(std::unique_ptr<Source> source, double max_latency, bool at_once)
      : source_(std::move(source)), max_latency_(max_latency) {
    info_ = source_->info();
    if (at_once) {
      start();
    } else {
      zero_ = 0;
    }
  }

  ~NewestSource() override {
    interrupt();
    if (thread_.joinable()) thread_.join();
  }

  std::optional<VideoFrame> read() override {
    std::unique_lock<std::mutex> held(lock_);
    asked_ = true;
    if (!thread_.joinable()) start();
    for (;;) {
      changed_.wait(held, [&] { return latest_ || ended_ || interrupted_; });
      if (interrupted_) return std::nullopt;
      if (!latest_) {
        if (error_) std::rethrow_exception(error_);
        return std::nullopt;
      }
      VideoFrame frame = std::move(*latest_);
      latest_.reset();
      frame.gap = frame.gap || gap_;
      if (max_latency_ > 0 && frame.captured && steady_seconds() - *frame.captured > max_latency_) {
        ++dropped_;
        gap_ = frame.gap;
        continue;
      }
      gap_ = false;
      if (!zero_) zero_ = frame.pts;
      frame.pts -= *zero_;
      return frame;
    }
  }

  void interrupt() override {
    {
      const std::lock_guard<std::mutex> held(lock_);
      interrupted_ = true;
    }
    changed_.notify_all();
    source_->interrupt();
  }

  std::int64_t dropped() const override {
    const std::lock_guard<std::mutex> held(lock_);
    return dropped_;
  }

  std::vector<std::string> warnings() const override { return source_->warnings(); }

 private:
  void start() {
    thread_ = std::thread([this] { work(); });
  }

  void work() {
    std::exception_ptr error;
    try {
      for (;;) {
        auto frame = source_->read();
        const std::lock_guard<std::mutex> held(lock_);
        if (!frame || interrupted_) break;
        if (latest_) {
          dropped_ += asked_;
          gap_ = gap_ || latest_->gap;
        }
        latest_ = std::move(frame);
        changed_.notify_all();
      }
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard<std::mutex> held(lock_);
    error_ = error;
    ended_ = true;
    changed_.notify_all();
  }

  std::unique_ptr<Source> source_;
  double max_latency_;
  mutable std::mutex lock_;
  std::condition_variable changed_;
  std::optional<VideoFrame> latest_;
  std::optional<std::int64_t> zero_;  // what is taken off the times
  std::exception_ptr error_;
  std::int64_t dropped_ = 0;
  bool gap_ = false, asked_ = false, ended_ = false, interrupted_ = false;
  std::thread thread_;
};

class PacedSource : public Source {
 public:
  explicit PacedSource(std::unique_ptr<Source> source) : source_(std::move(source)) {
    info_ = source_->info();
    info_.live = true;
    info_.frame_count.reset();
  }

  std::optional<VideoFrame> read() override {
    auto frame = source_->read();
    if (!frame) return frame;
    const double now = steady_seconds(), pts = static_cast<double>(frame->pts) * info_.time_base.value();
    // a frame that comes late moves the clock: nothing comes faster than filmed to catch up
    if (!zero_ || *zero_ + pts < now) zero_ = now - pts;
    frame->captured = *zero_ + pts;
    std::unique_lock<std::mutex> held(lock_);
    const std::chrono::duration<double> wait(*frame->captured - now);
    if (changed_.wait_for(held, wait, [&] { return interrupted_; })) return std::nullopt;
    return frame;
  }

  void interrupt() override {
    {
      const std::lock_guard<std::mutex> held(lock_);
      interrupted_ = true;
    }
    changed_.notify_all();
    source_->interrupt();
  }

  std::vector<std::string> warnings() const override { return source_->warnings(); }

 private:
  std::unique_ptr<Source> source_;
  std::optional<double> zero_;  // steady time at which pts 0 was due
  std::mutex lock_;
  std::condition_variable changed_;
  bool interrupted_ = false;
};

}  // namespace

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::unique_ptr<Source> newest_source(std::unique_ptr<Source> source, double max_latency, bool at_once) {
  return std::make_unique<NewestSource>(std::move(source), max_latency, at_once);
}

std::unique_ptr<Source> paced_source(std::unique_ptr<Source> source) {
  return std::make_unique<PacedSource>(std::move(source));
}

}  // namespace genedge
