// Calls that may hang or fail, made in a thread of their own, one after the other: runtime/faces/watched.py.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

namespace genedge::faces {

using Moment = std::chrono::steady_clock::time_point;

// The call, or one in front of it, did not return in time.
class CallTimeout : public std::runtime_error {
 public:
  CallTimeout() : std::runtime_error("it did not return in time") {}
};

// A call under way.
template <typename T>
class Call {
 public:
  Call(std::future<T> value, Moment deadline) : value_(std::move(value)), deadline_(deadline) {}

  // What the call returned; throws what it threw, or CallTimeout. Once.
  T result() {
    if (value_.wait_until(deadline_) != std::future_status::ready) throw CallTimeout();
    try {
      return value_.get();
    } catch (const std::future_error&) {  // never begun
      throw CallTimeout();
    }
  }

 private:
  std::future<T> value_;
  Moment deadline_;
};

// Runs calls in order. A call that hangs cannot be ended, so it is left behind, with all that it holds: those after it
// fail at once until it returns, and nobody waits for it when this is closed.
class WatchedThread {
 public:
  // `timeout`: seconds that a call may take, counted from when it is given, those in front of it included.
  explicit WatchedThread(double timeout);
  ~WatchedThread();
  WatchedThread(const WatchedThread&) = delete;
  WatchedThread& operator=(const WatchedThread&) = delete;

  // Give a call, which must own what it uses.
  template <typename T>
  Call<T> call(std::function<T()> work) {
    auto task = std::make_shared<std::packaged_task<T()>>(std::move(work));
    std::future<T> value = task->get_future();
    const Moment deadline = std::chrono::steady_clock::now() + timeout_;
    if (!give([task = std::move(task)] { (*task)(); }, deadline)) return {std::move(value), Moment()};
    return {std::move(value), deadline};
  }

  // Begin nothing more and wait `patience` seconds for what runs.
  void close(double patience = 2.0);

 private:
  struct Job {
    std::function<void()> work;
    Moment deadline;
  };

  struct State {
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<Job> jobs;
    std::optional<Moment> running;  // deadline of what runs
    bool closed = false;
    bool ended = false;
  };

  bool give(std::function<void()> work, Moment deadline);
  static void run(const std::shared_ptr<State>& state);

  const std::chrono::nanoseconds timeout_;
  std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace genedge::faces
