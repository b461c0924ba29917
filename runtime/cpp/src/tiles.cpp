#include "tiles.hpp"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <opencv2/imgproc.hpp>
#include <thread>

#include "genedge/error.hpp"

namespace genedge {
namespace {

constexpr int kWholeFramePixels = 1920 * 1088;  // larger frames are tiled unasked: activations take gigabytes
constexpr int kDefaultTile = 512;

std::string shown(cv::Size size) { return std::to_string(size.width) + "x" + std::to_string(size.height); }

/// One axis of a tile: the window starts at `origin`, the contribution is `start` to `stop`.
struct Span {
  int origin, start, stop;
};

std::vector<Span> spans(int size, int padded, int tile, int halo, int multiple) {
  // Origins are multiples of `multiple`, so that layers with a stride see the same phase as on the whole frame.
  // Neighbours may be `step` apart and still overlap by two halos.
  const int step = (tile - 2 * halo) / multiple, room = (padded - tile) / multiple;
  const int gaps = room ? (room + step - 1) / step : 0;
  std::vector<Span> result;
  for (int i = 0; i <= gaps; ++i) {
    result.push_back({gaps ? static_cast<int>(std::int64_t{i} * room / gaps) * multiple : 0, 0, size});
  }
  // The cut between two neighbours is the middle of their overlap: both sides keep at least a halo.
  for (int i = 0; i < gaps; ++i) {
    result[i].stop = result[i + 1].start = (result[i].origin + tile + result[i + 1].origin) / 2;
  }
  return result;
}

/// Images for use again. One whose memory somebody else still holds is left alone.
class Spare {
 public:
  cv::Mat take(cv::Size size) {
    const std::lock_guard<std::mutex> held(lock_);
    if (!free_.empty() && free_.back().size() == size) {
      cv::Mat image = free_.back();
      free_.pop_back();
      return image;
    }
    free_.clear();
    return cv::Mat(size, CV_8UC3);
  }

  void give(const cv::Mat& image) {
    const std::lock_guard<std::mutex> held(lock_);
    free_.push_back(image);
  }

 private:
  std::mutex lock_;
  std::vector<cv::Mat> free_;
};

/// Passes on what an inner session knows.
class Wrapper : public Session {
 public:
  explicit Wrapper(std::unique_ptr<Session> inner) : inner_(std::move(inner)) {}

  EngineInfo info() const override { return inner_->info(); }
  int in_flight() const override { return inner_->in_flight(); }
  int scale() const override { return inner_->scale(); }
  const std::map<std::string, Code>& codes() const override { return inner_->codes(); }
  void set_code(const std::string& name, const std::vector<double>& values) override {
    inner_->set_code(name, values);
  }
  void set_codes(const std::map<std::string, std::vector<double>>& values) override { inner_->set_codes(values); }
  void reset() override { inner_->reset(); }

 protected:
  std::unique_ptr<Session> inner_;
};

/// Brings frames to a size that the inner session takes, and its result to where it belongs. Frames that have such a
/// size already go through without a copy.
class AdaptingSession : public Wrapper {
 public:
  using Wrapper::Wrapper;

  Pending submit(const cv::Mat& frame, cv::Mat& out) override {
    check_frame(frame);
    if (frame.size() != size_) {  // for the inner session both sizes may be the same, so that it sees no change
      inner_->reset();
      size_ = frame.size();
    }
    const cv::Size size = taken(frame.size());
    if (size == frame.size()) return inner_->submit(frame, out);
    out.create(frame.size() * scale(), CV_8UC3);
    cv::Mat brought = inputs_.take(size), result = outputs_.take(size * scale());
    bring(frame, brought);
    auto pending = inner_->submit(brought, result);
    return [this, pending, brought, result, out]() mutable {
      pending();
      bring_back(result, out);
      inputs_.give(brought);
      outputs_.give(result);
    };
  }

  void prepare(cv::Size size) override { inner_->prepare(taken(size)); }
  void warm_up(cv::Size size) override { inner_->warm_up(taken(size)); }

 protected:
  virtual cv::Size taken(cv::Size size) const = 0;
  virtual void bring(const cv::Mat& frame, cv::Mat& taken) const = 0;
  virtual void bring_back(const cv::Mat& result, cv::Mat& out) const = 0;

 private:
  cv::Size size_;
  Spare inputs_, outputs_;
};

class PaddedSession : public AdaptingSession {
 public:
  PaddedSession(std::unique_ptr<Session> inner, const SizeRule& rule)
      : AdaptingSession(std::move(inner)), rule_(rule) {}

 protected:
  cv::Size taken(cv::Size size) const override { return rule_.padded(size); }
  void bring(const cv::Mat& frame, cv::Mat& taken) const override { pad_into(frame, taken); }
  void bring_back(const cv::Mat& result, cv::Mat& out) const override {
    result(cv::Rect({0, 0}, out.size())).copyTo(out);
  }

 private:
  SizeRule rule_;
};

class ResizedSession : public AdaptingSession {
 public:
  ResizedSession(std::unique_ptr<Session> inner, cv::Size size) : AdaptingSession(std::move(inner)), size_(size) {}

 protected:
  cv::Size taken(cv::Size) const override { return size_; }
  void bring(const cv::Mat& frame, cv::Mat& taken) const override { resize_into(frame, taken); }
  void bring_back(const cv::Mat& result, cv::Mat& out) const override { resize_into(result, out); }

 private:
  cv::Size size_;
};

/// Runs whole frames tile by tile. A worker thread keeps the inner session busy, also across the border of two frames;
/// only the worker calls it.
class TiledSession : public Wrapper {
 public:
  TiledSession(std::unique_ptr<Session> inner, cv::Size tile, int halo, const SizeRule& rule, bool fixed_shape)
      : Wrapper(std::move(inner)), tile_(tile), halo_(halo), rule_(rule), fixed_shape_(fixed_shape) {
    plan(tile);  // a tile that cannot work is refused now, not at the first frame
    for (const auto& [name, code] : codes()) codes_now_[name] = code.default_value;
    worker_ = std::thread([this] { work(); });
  }

  ~TiledSession() override {
    {
      const std::lock_guard<std::mutex> held(lock_);
      closed_ = true;
    }
    changed_.notify_all();
    worker_.join();
  }

  // one frame is computed while the next one waits, so that the engine never runs dry between them
  int in_flight() const override { return 2; }

  void set_code(const std::string& name, const std::vector<double>& values) override {
    auto changed = codes_now_;
    changed[name] = values;
    check(changed);
    codes_now_ = changed;
  }

  void set_codes(const std::map<std::string, std::vector<double>>& values) override {
    check(values);
    for (const auto& [name, code] : codes()) codes_now_[name] = code.default_value;
    for (const auto& [name, each] : values) codes_now_[name] = each;
  }

  Pending submit(const cv::Mat& frame, cv::Mat& out) override {
    check_frame(frame);
    out.create(frame.size() * scale(), CV_8UC3);
    auto job = std::make_shared<Job>();
    job->frame = frame;
    job->out = out;
    job->codes = codes_now_;
    job->plan = plan(frame.size());
    job->left = job->plan.tiles.size();
    std::unique_lock<std::mutex> held(lock_);
    changed_.wait(held, [&] { return unsettled_ < in_flight(); });
    ++unsettled_;
    jobs_.push_back(job);
    held.unlock();
    changed_.notify_all();
    return [job, done = job->done.get_future().share()] { done.get(); };
  }

  void prepare(cv::Size size) override { inner_->prepare(plan(size).tile); }
  void warm_up(cv::Size size) override { inner_->warm_up(plan(size).tile); }  // one tile, not a whole frame

 private:
  struct Job {
    cv::Mat frame, out;
    std::map<std::string, std::vector<double>> codes;
    TilePlan plan;
    std::size_t left = 0;
    std::exception_ptr error;
    bool settled = false;
    std::promise<void> done;
  };

  struct UnderWay {
    std::shared_ptr<Job> job;
    const Tile* tile;
    cv::Mat window, result;  // empty for a whole frame
    Pending pending;
  };

  TilePlan plan(cv::Size frame) const { return plan_tiles(frame, tile_, halo_, rule_, fixed_shape_); }

  void check(const std::map<std::string, std::vector<double>>& values) const {
    for (const auto& [name, each] : values) {
      const auto rule = codes().find(name);
      if (rule == codes().end()) throw UsageError("this generator has no code called '" + name + "'");
      try {
        rule->second.check(each);
      } catch (const UsageError& error) {
        throw UsageError(name + ": " + error.what());
      }
    }
  }

  void work() {
    for (;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> held(lock_);
        if (under_way_.empty()) changed_.wait(held, [&] { return closed_ || !jobs_.empty(); });
        if (!jobs_.empty()) {
          job = jobs_.front();
          jobs_.pop_front();
        } else if (closed_ && under_way_.empty()) {
          return;
        }
      }
      if (job) {
        run(job);
      } else {
        collect();  // never wait for the next frame while results are due
      }
    }
  }

  void run(const std::shared_ptr<Job>& job) {
    const TilePlan& plan = job->plan;
    const bool whole = plan.tiles.size() == 1 && plan.padded == plan.frame;
    try {
      cv::Mat frame = job->frame;
      if (plan.padded != plan.frame) {
        frame.create(plan.padded, CV_8UC3);
        pad_into(job->frame, frame);
      }
      if (job->codes != codes_given_) {
        inner_->set_codes(job->codes);
        codes_given_ = job->codes;
      }
      for (const Tile& tile : plan.tiles) {
        while (static_cast<int>(under_way_.size()) >= std::max(1, inner_->in_flight())) collect();
        if (job->error) break;
        UnderWay next{job, &tile, {}, {}, {}};
        if (whole) {
          next.pending = inner_->submit(frame, job->out);
        } else {
          next.window = inputs_.take(plan.tile);
          frame(cv::Rect(tile.window, plan.tile)).copyTo(next.window);
          next.result = outputs_.take(plan.tile * scale());
          next.pending = inner_->submit(next.window, next.result);
        }
        under_way_.push_back(std::move(next));
      }
    } catch (...) {
      if (!job->error) job->error = std::current_exception();
    }
    if (job->error) {
      // The tiles that were not sent will not come; nothing may still write or read the caller's images.
      while (!under_way_.empty()) collect();
      settle(*job);
    }
  }

  /// Wait for the oldest tile and copy its contribution to where it belongs.
  void collect() {
    UnderWay oldest = std::move(under_way_.front());
    under_way_.pop_front();
    Job& job = *oldest.job;
    try {
      oldest.pending();
      if (!oldest.window.empty()) {
        const int s = scale();
        const cv::Rect part = oldest.tile->part;
        const cv::Rect from((part.tl() - oldest.tile->window) * s, part.size() * s);
        oldest.result(from).copyTo(job.out(cv::Rect(part.tl() * s, part.size() * s)));
        inputs_.give(oldest.window);
        outputs_.give(oldest.result);
      }
    } catch (...) {
      if (!job.error) job.error = std::current_exception();
    }
    if (--job.left == 0) settle(job);
  }

  void settle(Job& job) {
    if (std::exchange(job.settled, true)) return;
    {
      const std::lock_guard<std::mutex> held(lock_);
      --unsettled_;
    }
    changed_.notify_all();
    if (job.error) {
      job.done.set_exception(job.error);
    } else {
      job.done.set_value();
    }
  }

  cv::Size tile_;
  int halo_;
  SizeRule rule_;
  bool fixed_shape_;
  std::map<std::string, std::vector<double>> codes_now_, codes_given_;
  Spare inputs_, outputs_;
  std::deque<UnderWay> under_way_;
  std::mutex lock_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> jobs_;
  int unsettled_ = 0;
  bool closed_ = false;
  std::thread worker_;
};

}  // namespace

int smallest_tile(int halo, const SizeRule& rule) { return rule.padded(2 * halo + rule.multiple); }

TilePlan plan_tiles(cv::Size frame, cv::Size tile, int halo, const SizeRule& rule, bool fixed_shape) {
  if (frame.width < 1 || frame.height < 1) {
    throw UsageError("a frame of " + shown(frame) + " pixels has nothing in it");
  }
  const int least = smallest_tile(halo, rule);
  for (const int side : {tile.height, tile.width}) {
    if (side < least) {
      throw UsageError("a tile of " + shown(tile) + " pixels is too small for this network, which looks " +
                       std::to_string(halo) + " pixels far: the smallest tile is " + shown({least, least}));
    }
    if (side % rule.multiple) {
      throw UsageError("the sides of a tile must be multiples of " + std::to_string(rule.multiple) +
                       " for this network: use " + std::to_string(rule.padded(side)) + " instead of " +
                       std::to_string(side));
    }
  }
  TilePlan plan{frame, rule.padded(frame), {}, {}};
  if (fixed_shape) {
    plan.padded = {std::max(plan.padded.width, tile.width), std::max(plan.padded.height, tile.height)};
  }
  plan.tile = {std::min(tile.width, plan.padded.width), std::min(tile.height, plan.padded.height)};
  const auto rows = spans(frame.height, plan.padded.height, plan.tile.height, halo, rule.multiple);
  const auto columns = spans(frame.width, plan.padded.width, plan.tile.width, halo, rule.multiple);
  for (const Span& row : rows) {
    for (const Span& column : columns) {
      plan.tiles.push_back({{column.origin, row.origin},
                            {cv::Point(column.start, row.start), cv::Point(column.stop, row.stop)}});
    }
  }
  return plan;
}

void pad_into(const cv::Mat& frame, cv::Mat& out) {
  cv::copyMakeBorder(frame, out, 0, out.rows - frame.rows, 0, out.cols - frame.cols, cv::BORDER_REPLICATE);
}

void resize_into(const cv::Mat& image, cv::Mat& out) {
  if (image.size() == out.size()) {
    image.copyTo(out);
    return;
  }
  const cv::Size size = out.size(), least(std::min(size.width, image.cols), std::min(size.height, image.rows));
  cv::Mat small = image;
  if (least != image.size()) {
    small = least == size ? out : cv::Mat();
    cv::resize(image, small, least, 0, 0, cv::INTER_AREA);
  }
  if (least != size) cv::resize(small, out, size, 0, 0, cv::INTER_CUBIC);
}

std::unique_ptr<Session> padded_session(std::unique_ptr<Session> inner, const SizeRule& rule) {
  return std::make_unique<PaddedSession>(std::move(inner), rule);
}

std::unique_ptr<Session> resized_session(std::unique_ptr<Session> inner, cv::Size size) {
  return std::make_unique<ResizedSession>(std::move(inner), size);
}

std::unique_ptr<Session> tiled_session(std::unique_ptr<Session> inner, cv::Size tile, int halo, const SizeRule& rule,
                                       bool fixed_shape) {
  return std::make_unique<TiledSession>(std::move(inner), tile, halo, rule, fixed_shape);
}

std::unique_ptr<Session> fit_session(std::unique_ptr<Session> session, const Geometry& geometry, cv::Size size,
                                     int tile) {
  const SizeRule& rule = geometry.size_rule;
  if (geometry.fixed_size) {
    const cv::Size only = *geometry.fixed_size;
    if (tile > 0) {
      throw UsageError("this bundle takes frames of one size only (" + shown(only) + "): leave out --tile");
    }
    if (only == size) return session;
    if (geometry.resizes) return resized_session(std::move(session), only);
    if (!geometry.tileable) {
      throw UsageError("this bundle takes frames of " + shown(only) + " only and cannot be tiled, but the input is " +
                       shown(size) + ": resize the input to that size first, or build the bundle for yours " +
                       "(export build --shape " + std::to_string(size.height) + "x" + std::to_string(size.width) + ")");
    }
    return tiled_session(std::move(session), only, geometry.halo, rule, true);
  }
  if (tile > 0 && !geometry.tileable) {
    throw UsageError("this generator takes whole frames only and cannot be tiled: leave out --tile");
  }
  if (tile < 0 && geometry.tileable && std::int64_t{size.width} * size.height > kWholeFramePixels) {
    tile = std::max(rule.padded(kDefaultTile), smallest_tile(geometry.halo, rule));
  }
  if (tile > 0) return tiled_session(std::move(session), {tile, tile}, geometry.halo, rule, false);
  return padded_session(std::move(session), rule);
}

std::unique_ptr<Session> open_stage(const Bundle& bundle, const Choice& choice, cv::Size size, int tile,
                                    const SessionOptions& options) {
  SessionOptions taken = options;
  // a state makes each frame wait for the last one; else two streams give more frames a second than one on all cores
  taken.engine.streams = options.live || !bundle.manifest.inputs_of("state").empty() ? 1 : 2;
  taken.in_flight = taken.engine.streams + 1;
  return fit_session(open_session(bundle, choice, taken), bundle.manifest.geometry, size, tile);
}

}  // namespace genedge
