#include "faces/watched.h"

namespace genedge::faces {
namespace {

constexpr std::size_t kMostWaiting = 8;  // calls that may wait; one more fails at once

std::chrono::nanoseconds seconds(double count) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(count));
}

}  // namespace

WatchedThread::WatchedThread(double timeout)
    : timeout_(seconds(timeout)), state_(std::make_shared<State>()), thread_([state = state_] { run(state); }) {}

WatchedThread::~WatchedThread() { close(); }

bool WatchedThread::give(std::function<void()> work, Moment deadline) {
  const std::lock_guard lock(state_->mutex);
  const bool overdue = state_->running && std::chrono::steady_clock::now() > *state_->running;
  if (state_->closed || state_->jobs.size() >= kMostWaiting || overdue) return false;
  state_->jobs.push_back({std::move(work), deadline});
  state_->wake.notify_all();
  return true;
}

void WatchedThread::run(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  while (true) {
    state->running.reset();
    state->wake.wait(lock, [&] { return !state->jobs.empty() || state->closed; });
    if (state->closed) break;
    Job job = std::move(state->jobs.front());
    state->jobs.pop_front();
    if (std::chrono::steady_clock::now() > job.deadline) continue;  // given up by whoever asked
    state->running = job.deadline;
    lock.unlock();
    job.work();
    job.work = nullptr;  // what it holds is free when it is done
    lock.lock();
  }
  state->ended = true;
  state->wake.notify_all();
}

void WatchedThread::close(double patience) {
  if (!thread_.joinable()) return;
  bool ended = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->closed = true;
    state_->jobs.clear();
    state_->wake.notify_all();
    ended = state_->wake.wait_for(lock, seconds(patience), [&] { return state_->ended; });
  }
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

}  // namespace genedge::faces
