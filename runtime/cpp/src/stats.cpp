#include "stats.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>

#include "live.hpp"
#include "text.hpp"

namespace genedge {
namespace {

constexpr std::size_t kExactSamples = 100'000;  // 8 bytes each
constexpr double kTtyInterval = 0.2, kPlainInterval = 5.0, kWindow = 5.0;

}  // namespace

void LatencyRecorder::add(double seconds) {
  ++count_;
  sum_ += seconds;
  max_ = std::max(max_, seconds);
  if (samples_.size() < kExactSamples) {
    samples_.push_back(seconds);
    return;
  }
  const auto place = std::uniform_int_distribution<std::uint64_t>(0, static_cast<std::uint64_t>(count_) - 1)(random_);
  if (place < kExactSamples) samples_[place] = seconds;
}

double percentile(const std::vector<double>& ordered, double percent) {
  if (ordered.empty()) return 0;
  const double place = static_cast<double>(ordered.size() - 1) * percent / 100;
  const auto low = static_cast<std::size_t>(place);
  const auto high = std::min(low + 1, ordered.size() - 1);
  return ordered[low] + (ordered[high] - ordered[low]) * (place - static_cast<double>(low));
}

LatencySummary LatencyRecorder::summary() const {
  std::vector<double> ordered = samples_;
  std::sort(ordered.begin(), ordered.end());
  const auto ms = [&](double percent) { return 1e3 * percentile(ordered, percent); };
  const double mean = count_ ? 1e3 * sum_ / static_cast<double>(count_) : 0;
  return {count_, mean, ms(50), ms(95), ms(99), 1e3 * max_};
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<long long>(std::nearbyint(seconds));
  char text[32];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld", whole / 60, whole % 60);
  }
  return text;
}

std::int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (starts_with(line, "VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

std::int64_t current_rss_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

Progress::Progress(std::optional<std::int64_t> total, bool quiet)
    : total_(total), quiet_(quiet), tty_(!quiet && isatty(STDERR_FILENO)), start_(steady_seconds()),
      last_(tty_ ? -std::numeric_limits<double>::infinity() : start_), window_{{start_, 0}} {}

void Progress::update(std::int64_t done) {
  done_ = done;
  if (closed_) return;
  const double now = steady_seconds();
  if (now - window_.back().first >= kTtyInterval) {
    window_.emplace_back(now, done);
    while (window_.size() > 2 && now - window_[1].first >= kWindow) window_.erase(window_.begin());
  }
  if (quiet_ || now - last_ < (tty_ ? kTtyInterval : kPlainInterval)) return;
  last_ = now;
  std::vector<std::string> parts = {counter()};
  const auto [then, before] = window_.front();
  const double speed = now > then ? static_cast<double>(done - before) / (now - then) : 0;
  if (speed > 0) {
    parts.push_back(with_digits(speed, 1) + " fps");
    if (total_ && done <= *total_) {
      parts.push_back("ETA " + duration_text(static_cast<double>(*total_ - done) / speed));
    }
  }
  show(parts);
}

void Progress::close() {
  if (std::exchange(closed_, true) || quiet_ || (!done_ && !shown_)) return;
  const double seconds = steady_seconds() - start_;
  std::vector<std::string> parts = {counter(), "in " + duration_text(seconds)};
  if (seconds > 0) parts.push_back(with_digits(static_cast<double>(done_) / seconds, 1) + " fps");
  show(parts);
  if (tty_) std::fputc('\n', stderr);
}

std::string Progress::counter() const {
  // a container's frame count can be wrong: what was counted here is right
  const bool known = total_ && done_ <= *total_;
  return std::to_string(done_) + (known ? "/" + std::to_string(*total_) : "") + " frames";
}

void Progress::show(const std::vector<std::string>& parts) {
  std::string line = joined(parts, "  ");
  if (!tty_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  winsize window{};
  const int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col ? window.ws_col : 80;
  line = line.substr(0, static_cast<std::size_t>(columns - 1));
  const std::string blank(shown_ > line.size() ? shown_ - line.size() : 0, ' ');
  shown_ = line.size();
  std::fprintf(stderr, "\r%s%s", line.c_str(), blank.c_str());
}

}  // namespace genedge
