// Measurements of a running pipeline; see runtime/stats.py.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "genedge/pipeline.hpp"

namespace genedge {

/// Collects seconds, reports milliseconds, in bounded memory: percentiles are exact for the first 100,000 samples, and
/// come from a random sample of as many beyond that. One thread adds; the summary is read when it is done.
class LatencyRecorder {
 public:
  void add(double seconds);
  std::int64_t count() const { return count_; }
  LatencySummary summary() const;

 private:
  std::vector<double> samples_;
  std::mt19937_64 random_;
  double sum_ = 0, max_ = 0;
  std::int64_t count_ = 0;
};

/// Of rising values, interpolated between neighbours as numpy does. 0 for none.
double percentile(const std::vector<double>& ordered, double percent);

/// `0:07`, `12:34` or `1:02:03`.
std::string duration_text(double seconds);

/// A progress line on standard error: rewritten in place on a terminal, else a plain line every five seconds.
class Progress {
 public:
  Progress(std::optional<std::int64_t> total, bool quiet);
  void update(std::int64_t done);
  void close();

 private:
  void show(const std::vector<std::string>& parts);
  std::string counter() const;

  std::optional<std::int64_t> total_;
  bool quiet_, tty_, closed_ = false;
  double start_, last_;
  std::int64_t done_ = 0;
  std::size_t shown_ = 0;
  std::vector<std::pair<double, std::int64_t>> window_;  // (time, done) of the last five seconds
};

}  // namespace genedge
