#include "genedge/faces/guard.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <map>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "faces/match.h"
#include "faces/regions.h"
#include "faces/track.h"
#include "genedge/error.hpp"
#include "text.hpp"

namespace genedge::faces {
namespace {

constexpr int kHeldLeast = 3;           // frames, however long they take: what leaks is seen frame by frame
constexpr int kHeldMost = 900;          // frames, however little time they take
constexpr double kMostGrowth = 2.0;     // of a region's sides
constexpr double kWeakGrowth = 1.5;     // the same of a track that never had a high score
constexpr double kWeakWay = 1.0;        // face sizes that such a track is followed without a sight
constexpr double kFollowed = 0.85;      // likeness down to which a face is where its picture is found
constexpr double kFollowedWay = 0.4;    // face sizes from there that it is covered towards where its motion leads
constexpr int kFollowedGrowth = 4;      // frames for which the region of such a face grows
constexpr double kMostOff = 1.0;        // face sizes to all sides that what the predictions were off adds at most
constexpr int kOffFrames = 5;           // frames over which what the predictions were off adds up
constexpr double kUnknownSpeed = 0.05;  // face sizes a frame that one may move that was seen once
constexpr double kSame = 0.5;           // intersection over union from which two detections are the same face
constexpr double kStaysSure = 0.4;      // score down to which a face that was sure stays so
constexpr double kEase = 0.1;           // by which its landmarks may be less plausible
constexpr int kSureMisses = 3;          // frames to a sight that was sure, within which its face may be drawn
constexpr std::size_t kMostFaces = 1000;  // in a frame; more are not told apart in time, and the frame counts as failed
constexpr int kMostLeft = 64;           // tracks at a time of faces that may have stayed where another was taken for them
constexpr int kMostMatches = 48;        // searches for a picture a frame
constexpr std::size_t kRemembered = 256;  // frames whose shot is remembered for faces that are found in the result
constexpr double kUsualStep = 1.0 / 25;   // seconds from frame to frame, until it is known
constexpr double kLeastStep = 1e-4;     // seconds; a clock that goes slower stands still
constexpr std::size_t kSteps = 25;      // whose median is the usual one

// A frame that waits for its verdict. `clock`: seconds, always advancing.
struct Waiting {
  int index;
  double clock;
  int shot;
  std::shared_ptr<SmallFrame> small;
  std::string reason;                       // why it cannot be judged
  std::map<int, std::vector<Box>> doubles;  // more detections of a track's face
};

struct Counts {
  int first;
  int last;
  double best;
  std::array<int, kCoverKinds> kinds{};
};

// Seconds that always advance, from times that may not.
class Clock {
 public:
  double now() const { return now_; }

  // The time of the next frame. `pts`: as its source says.
  double tick(double pts) {
    if (!std::isfinite(pts)) return now_ += usual();
    double step = last_ ? pts - *last_ : 0.0;
    if (step >= kLeastStep) {
      steps_.push_back(step);
      if (steps_.size() > kSteps) steps_.pop_front();
    } else if (last_) {
      step = usual();
    }
    last_ = pts;
    return now_ += step;
  }

 private:
  double usual() const {
    if (steps_.empty()) return kUsualStep;
    std::vector<double> sorted(steps_.begin(), steps_.end());
    std::sort(sorted.begin(), sorted.end());
    const std::size_t half = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }

  double now_ = 0;
  std::optional<double> last_;
  std::deque<double> steps_;
};

// Pixels by which a face may be beside its prediction after `steps` frames, besides growing.
double off_of(const Motion& motion, const Box& box, int steps) {
  const double size = size_of(box);
  if (motion.known == 0) return kUnknownSpeed * size * std::min(steps, kOffFrames);
  const double noise = kJitter * size * std::max(kSteadyGain, 2.0 / motion.known);  // both ends of the way may be off
  return std::min(kMostOff * size, motion.off * std::min(steps, kOffFrames)) + noise * std::min(steps, kTravel);
}

// `box`, or one of the size of `than` about its centre: that a face becomes smaller is not relied on.
Box no_smaller(const Box& box, const Box& than) {
  return box.width >= than.width ? box : box.scaled(than.width / std::max(1e-6, box.width));
}

// A box of the size of `like` about the centre of `box`.
Box of_size(const Box& box, const Box& like) {
  const auto [x, y] = like.center();
  const auto [to_x, to_y] = box.center();
  return like.moved(to_x - x, to_y - y);
}

// `to`, or on the way there, `sizes` of its own sizes from `box`.
Box no_further(const Box& box, const Box& to, double sizes) {
  const auto [x, y] = box.center();
  const auto [to_x, to_y] = to.center();
  const double way = std::hypot(to_x - x, to_y - y);
  const double most = sizes * size_of(box);
  return way <= most ? to : to.moved((most / way - 1) * (to_x - x), (most / way - 1) * (to_y - y));
}

bool usable(double number) { return std::abs(number) < kMostNumber; }  // false for what is no number

// Why nothing can be concluded from `faces`; empty: something can.
std::string unusable(const std::vector<Face>& faces) {
  if (faces.size() > kMostFaces) return "more than " + std::to_string(kMostFaces) + " faces";
  for (const Face& face : faces) {
    const Box& box = face.box;
    if (!(usable(box.x) && usable(box.y) && usable(box.width) && usable(box.height) && usable(face.score))) {
      return "detector gave a number that is none";
    }
    if (!face.landmarks) continue;
    for (const Point& point : *face.landmarks) {
      if (!usable(point.x) || !usable(point.y)) return "detector gave landmarks that are none";
    }
  }
  return "";
}

// With sides of at least two pixels, about the same centre.
Face with_area(Face face) {
  const Box& box = face.box;
  if (box.width >= 2 && box.height >= 2) return face;
  const double wide = std::max(2.0, box.width);
  const double high = std::max(2.0, box.height);
  face.box = {box.x + (box.width - wide) / 2, box.y + (box.height - high) / 2, wide, high};
  return face;
}

// To four decimals, as a report shows it.
double rounded(double score) {
  char text[64];
  std::snprintf(text, sizeof text, "%.4f", score);
  return std::strtod(text, nullptr);
}

}  // namespace

void GuardSettings::check() const {
  if (!(0 <= lookahead && lookahead <= 1000)) {
    throw UsageError("look-ahead must be 0 to 1000 frames, not " + std::to_string(lookahead));
  }
  const struct {
    const char* name;
    double value, least, most;
  } kRanges[] = {{"hold", hold, 0, 60},     {"grow", grow, 0, 1},    {"low", low, 0, 1},
                 {"high", high, 0, 1},      {"across", across, 1, 10}, {"down", down, 1, 10},
                 {"smallest_sure", smallest_sure, 0, 1e5}};
  for (const auto& range : kRanges) {
    if (range.least <= range.value && range.value <= range.most) continue;
    throw UsageError(std::string(range.name) + " must be " + general(range.least) + " to " + general(range.most) +
                     ", not " + general(range.value));
  }
  if (low > high) {
    throw UsageError("the low score (" + general(low) + ") must not be above the high one (" + general(high) + ")");
  }
}

class Guard::Impl {
 public:
  explicit Impl(const GuardSettings& given) : settings(given) { settings.check(); }

  void fail(int index, double pts, const cv::Mat& image, const std::string& reason, bool cut) {
    Waiting& frame = enter(index, pts, image, cut);
    frame.reason = reason.empty() ? "not judged" : reason;
    follow(frame, {});
  }

  void push(int index, double pts, const cv::Mat& image, const std::vector<Face>& faces, bool cut) {
    const std::string reason = unusable(faces);
    if (!reason.empty()) return fail(index, pts, image, reason, cut);
    Waiting& frame = enter(index, pts, image, cut);
    std::vector<Face> chosen;
    for (const Face& face : faces) {
      if (face.score >= settings.low) chosen.push_back(with_area(face));
    }
    std::stable_sort(chosen.begin(), chosen.end(),
                     [](const Face& one, const Face& other) { return one.score > other.score; });
    follow(frame, chosen);
  }

  Cover add_late(int index, const Face& given) {
    const Face face = with_area(given);
    double clock = clock_.now();
    int shot = -1;
    if (const auto known = shots_.find(index); known != shots_.end()) std::tie(clock, shot) = known->second;
    TrackPtr track = known_at(index, shot, face.box);
    if (track) {
      track->see(face, index, clock, false, true);
      track->matched.erase(track->matched.lower_bound(index), track->matched.end());
    } else {
      track = begin(face, index, clock, shot, true);
    }
    match_onwards(*track);
    count(*track, index, CoverKind::rechecked);
    return {track->number, face.box, region(nullptr, {face.box}, 0, 0.0), CoverKind::rechecked, face.score,
            std::nullopt, false};
  }

  std::optional<Verdict> pop() {
    if (waiting_.empty()) return std::nullopt;
    Waiting& frame = waiting_.front();
    if (static_cast<int>(waiting_.size()) <= settings.lookahead && frame.shot == shot_ && !finished) {
      return std::nullopt;
    }
    Verdict verdict{frame.index, frame.reason.empty(), {}, frame.reason};
    for (const TrackPtr& track : tracks_) {
      if (std::optional<Cover> cover = cover_of(*track, frame)) {
        verdict.covers.push_back(*cover);
        count(*track, frame.index, cover->kind);
      }
    }
    popped_.push_back(std::move(frame));
    waiting_.pop_front();
    if (popped_.size() > 2) popped_.pop_front();
    const Waiting& gone = popped_.back();
    shots_[gone.index] = {gone.clock, gone.shot};
    while (shots_.size() > kRemembered) shots_.erase(shots_.begin());
    forget(gone);
    return verdict;
  }

  std::vector<TrackSummary> summaries() const {
    std::vector<TrackSummary> result;
    for (const auto& [number, counts] : counts_) {
      const auto of = [&kinds = counts.kinds](CoverKind kind) { return kinds[static_cast<std::size_t>(kind)]; };
      const int detected = of(CoverKind::detected);
      result.push_back({number, counts.first, counts.last, detected + of(CoverKind::rechecked), of(CoverKind::held),
                        of(CoverKind::filled), of(CoverKind::interpolated), rounded(counts.best),
                        counts.best < settings.high || detected < 3});
    }
    return result;
  }

  const GuardSettings settings;
  bool finished = false;

 private:
  // -- following -------------------------------------------------------------------------------

  Waiting& enter(int index, double pts, const cv::Mat& image, bool cut) {
    if (finished) throw std::logic_error("frame " + std::to_string(index) + " comes after the end");
    if (last_index_ && index <= *last_index_) {
      throw std::logic_error("frame " + std::to_string(index) + " comes after frame " + std::to_string(*last_index_));
    }
    last_index_ = index;
    if (cut) {
      ++shot_;
      active_.clear();
    }
    const double clock = clock_.tick(pts);
    waiting_.push_back({index, clock, shot_, image.empty() ? nullptr : std::make_shared<SmallFrame>(image), "", {}});
    matches_ = kMostMatches;
    return waiting_.back();
  }

  // Give `faces`, best first, to the tracks; begin tracks for the others; look for what was missed.
  void follow(Waiting& frame, const std::vector<Face>& faces) {
    const std::vector<TrackPtr> tracks = active_;
    const std::vector<Pair> pairs = assign(tracks, faces, frame.index, settings.high);
    std::vector<TrackPtr> left;
    std::vector<char> with_track(tracks.size(), 0);
    std::map<int, TrackPtr> seen;
    for (const Pair& pair : pairs) {
      const TrackPtr& track = tracks[static_cast<std::size_t>(pair.track)];
      const Face& face = faces[static_cast<std::size_t>(pair.face)];
      if (pair.jumped) {
        left.push_back(left_behind(*track));
        track->matched.clear();
      }
      track->see(face, frame.index, frame.clock, is_sure(track.get(), face, frame.index));
      with_track[static_cast<std::size_t>(pair.track)] = 1;
      seen[pair.face] = track;
    }
    active_.clear();
    for (const TrackPtr& track : tracks) {
      if (!is_lost(*track, frame)) active_.push_back(track);
    }
    begin_all(frame, faces, seen);
    const auto were_left = std::count_if(active_.begin(), active_.end(), [](const TrackPtr& track) {
      return track->since >= 0;
    });
    const auto room = static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, kMostLeft - were_left));
    if (left.size() > room) left.resize(room);
    active_.insert(active_.end(), left.begin(), left.end());
    tracks_.insert(tracks_.end(), left.begin(), left.end());
    for (std::size_t place = 0; place < tracks.size(); ++place) {
      if (!with_track[place]) match_onwards(*tracks[place]);
    }
    for (const TrackPtr& track : left) match_onwards(*track);
  }

  // Begin a track for every face that has none, unless it is another detection of one that has.
  void begin_all(Waiting& frame, const std::vector<Face>& faces, std::map<int, TrackPtr>& seen) {
    std::vector<TrackPtr> fresh;
    for (int place = 0; place < static_cast<int>(faces.size()); ++place) {
      if (seen.count(place) != 0) continue;
      const Face& face = faces[static_cast<std::size_t>(place)];
      TrackPtr twin;
      for (const auto& [other, track] : seen) {  // rising places
        if (compared(face.box, faces[static_cast<std::size_t>(other)].box).iou > kSame) {
          twin = track;
          break;
        }
      }
      if (twin) {
        frame.doubles[twin->number].push_back(face.box);
        continue;
      }
      seen[place] = begin(face, frame.index, frame.clock, frame.shot);
      fresh.push_back(seen[place]);
    }
    for (const TrackPtr& track : fresh) match_backwards(*track);
  }

  TrackPtr begin(const Face& face, int index, double clock, int shot, bool late = false) {
    const bool sure = !late && is_sure(nullptr, face, index);
    auto track = std::make_shared<Track>();
    track->number = numbers_++;
    track->shot = shot;
    track->sights.push_back({index, clock, face.box, face.score, face.landmarks, face.landmarks, sure, {}, late});
    track->seen = 1;
    track->best = face.score;
    tracks_.push_back(track);
    if (shot == shot_) active_.push_back(track);
    return track;
  }

  // A track that stays where `track` was, because what was taken for its face may be another one's.
  TrackPtr left_behind(const Track& track) {
    auto left = std::make_shared<Track>();
    Sight sight = track.last();
    sight.sure = false;
    sight.landmarks = sight.steady = std::nullopt;
    sight.motion = {};
    left->number = numbers_++;
    left->shot = track.shot;
    left->sights.push_back(sight);
    left->seen = track.seen;
    left->best = track.best;
    left->matched = track.matched;
    left->since = sight.index;
    return left;
  }

  // The track that was not seen in or after `index` and most likely is what `box` shows there, or null.
  TrackPtr known_at(int index, int shot, const Box& box) const {
    TrackPtr best;
    double most = 0.1;
    for (const TrackPtr& track : active_) {
      if (track->shot != shot || track->last().index >= index) continue;
      const double overlap = std::max(box.iou(track->expected(index)), box.iou(track->last().box));
      if (overlap > most) {
        best = track;
        most = overlap;
      }
    }
    return best;
  }

  // Whether no later face can be that of `track`.
  bool is_lost(const Track& track, const Waiting& frame) const {
    const int steps = frame.index - track.last().index;
    if (steps > kHeldMost) return true;
    return steps > std::max(kHeldLeast, settings.lookahead) && frame.clock - track.last().clock > settings.hold;
  }

  bool is_sure(const Track* track, const Face& face, int index) const {
    const bool was_sure = track != nullptr && track->last().sure && index - track->last().index <= kSureMisses;
    if (face.score < (was_sure ? std::min(kStaysSure, settings.high) : settings.high)) return false;
    if (std::min(face.box.width, face.box.height) < settings.smallest_sure || !face.landmarks) return false;
    return plausible(*face.landmarks, was_sure ? kEase : 0.0);
  }

  // -- finding by the picture ------------------------------------------------------------------

  // Follow the picture of a face from its last sight, or from where it was found last, to the newest frame.
  void match_onwards(Track& track) {
    if (track.blind) return;
    Match here{track.last().box, 1.0};
    SmallFrame* before = nullptr;
    for (const std::deque<Waiting>* frames : {&popped_, &waiting_}) {
      for (const Waiting& frame : *frames) {
        if (frame.shot != track.shot || frame.index < track.last().index) continue;
        const auto known = track.matched.find(frame.index);
        if (frame.index == track.last().index || known != track.matched.end()) {
          here = known != track.matched.end() ? known->second : Match{track.last().box, 1.0};
          before = frame.small.get();
          continue;
        }
        if (matches_ <= 0) return;
        std::optional<Match> found;
        if (before != nullptr && frame.small) {
          --matches_;
          const Box around = here.box.united(here.box.moved(track.last().motion.dx, track.last().motion.dy));
          found = before->locate(here.box, *frame.small, around);
        }
        if (!found) {
          track.blind = true;
          return;
        }
        here = {found->box, std::min(here.alike, found->alike)};
        before = frame.small.get();
        track.matched[frame.index] = here;
      }
    }
  }

  // Follow the picture of a new face through the frames before its first sight.
  void match_backwards(Track& track) {
    Match here{track.last().box, 1.0};
    SmallFrame* later = nullptr;
    const int most = filled_most(track);
    for (auto frame = waiting_.rbegin(); frame != waiting_.rend(); ++frame) {
      if (frame->index >= track.last().index) {
        later = frame->small.get();
        continue;
      }
      if (frame->shot != track.shot || track.last().index - frame->index > most) return;
      if (later == nullptr || !frame->small || matches_ <= 0) return;
      --matches_;
      const std::optional<Match> found = later->locate(here.box, *frame->small, here.box);
      if (!found) return;
      here = {found->box, std::min(here.alike, found->alike)};
      later = frame->small.get();
      track.matched[frame->index] = here;
    }
  }

  // -- deciding --------------------------------------------------------------------------------

  // What `frame` has to cover because of `track`, from all that is known by now.
  std::optional<Cover> cover_of(const Track& track, const Waiting& frame) const {
    if (track.shot != frame.shot || frame.index <= track.since) return std::nullopt;
    const Track::Around around = track.around(frame.index);
    if (around.here != nullptr) return detected(track, *around.here, frame);
    if (around.before != nullptr && around.after != nullptr) {
      return interpolated(track, *around.before, *around.after, frame);
    }
    if (around.before != nullptr && is_held(track, *around.before, frame)) return held(track, *around.before, frame);
    if (around.after != nullptr && around.after->index - frame.index <= filled_most(track)) {
      return filled(track, *around.after, frame);
    }
    return std::nullopt;
  }

  Cover detected(const Track& track, const Sight& here, const Waiting& frame) const {
    const auto [box, landmarks] = smooth(track, here);
    std::vector<Box> boxes = {here.box, box};
    if (const auto more = frame.doubles.find(track.number); more != frame.doubles.end()) {
      boxes.insert(boxes.end(), more->second.begin(), more->second.end());
    }
    return {track.number, box, region(&track, boxes, 0, 0.0), here.late ? CoverKind::rechecked : CoverKind::detected,
            here.score, landmarks, here.sure};
  }

  Cover interpolated(const Track& track, const Sight& before, const Sight& after, const Waiting& frame) const {
    const int gap = after.index - before.index;
    const int steps = frame.index - before.index;
    const int nearest = std::min(steps, gap - steps);
    const double share = static_cast<double>(steps) / gap;
    const Box box = between(before.box, after.box, share);
    const auto [x, y] = before.box.center();
    const auto [to_x, to_y] = after.box.center();
    double bend = 0;
    if (before.motion.known != 0) {  // on a path that bends evenly the middle is this far from the line
      const double beside = std::hypot(before.motion.dx - (to_x - x) / gap, before.motion.dy - (to_y - y) / gap);
      bend = std::min(size_of(box), beside * gap / 4);
    }
    std::optional<Landmarks> landmarks;
    if (before.steady && after.landmarks) {
      const float part = static_cast<float>(share);
      Landmarks points;
      for (std::size_t place = 0; place < points.size(); ++place) {
        const Point& from = (*before.steady)[place];
        const Point& to = (*after.landmarks)[place];
        points[place] = {from.x + part * (to.x - from.x), from.y + part * (to.y - from.y)};
      }
      landmarks = points;
    }
    const bool sure = before.sure && after.sure && nearest <= kSureMisses && landmarks;
    return {track.number, box, where(track, frame, nullptr, box, nearest, bend), CoverKind::interpolated, before.score,
            landmarks, sure};
  }

  Cover held(const Track& track, const Sight& before, const Waiting& frame) const {
    const int steps = frame.index - before.index;
    Box box = predicted(before, steps);
    const Box region = where(track, frame, &before.box, box, steps, off_of(before.motion, before.box, steps));
    if (const auto found = track.matched.find(frame.index); found != track.matched.end()) box = found->second.box;
    std::optional<Landmarks> landmarks;
    if (before.steady) landmarks = carried(*before.steady, before.box, box);
    const bool sure = before.sure && steps <= kSureMisses && landmarks;
    return {track.number, box, region, CoverKind::held, before.score, landmarks, sure};
  }

  Cover filled(const Track& track, const Sight& after, const Waiting& frame) const {
    const int steps = after.index - frame.index;
    const Motion motion = track.motion_from(after);
    Box box = motion.known != 0 ? after.box.moved(-motion.dx * steps, -motion.dy * steps) : after.box;
    const Box region = where(track, frame, &after.box, box, steps, off_of(motion, after.box, steps));
    if (const auto found = track.matched.find(frame.index); found != track.matched.end()) box = found->second.box;
    std::optional<Landmarks> landmarks;
    if (after.landmarks) landmarks = carried(*after.landmarks, after.box, box);
    return {track.number, box, region, CoverKind::filled, after.score, landmarks, false};
  }

  bool is_doubtful(const Track& track) const {
    // a track that was left behind, and nothing seen of it since, as well
    return (track.best < settings.high && !track.last().late) || track.since == track.last().index;
  }

  bool is_weak(const Track& track) const { return track.seen == 1 && is_doubtful(track); }

  int filled_most(const Track& track) const {
    return is_weak(track) ? (settings.lookahead + 1) / 2 : settings.lookahead;
  }

  bool is_held(const Track& track, const Sight& before, const Waiting& frame) const {
    double hold = settings.hold;
    int least = kHeldLeast;
    if (hold <= 0) return false;
    if (is_weak(track)) {
      hold /= 4;
      least = std::max(kHeldLeast, (settings.lookahead + 1) / 2);
    }
    const int steps = frame.index - before.index;
    return steps <= least || (steps <= kHeldMost && frame.clock - before.clock <= hold + 1e-9);
  }

  // The region of a face in a frame without a sight of it: where it was `seen` (null: it is between two sights),
  // `steps` frames away, where it is by a `guess` that is up to `extra` pixels off, and where its picture was found.
  Box where(const Track& track, const Waiting& frame, const Box* seen, const Box& guess, int steps,
            double extra) const {
    const auto found = track.matched.find(frame.index);
    const bool matched = found != track.matched.end();
    std::vector<Box> boxes = {guess};
    if (seen != nullptr) boxes = {*seen, no_smaller(guess, *seen)};
    const double size = size_of(boxes[0]);
    if (matched && found->second.alike >= kFollowed) {
      const Box& place = found->second.box;
      boxes = {no_further(place, of_size(guess, place), kFollowedWay)};
      steps = std::min(steps, kFollowedGrowth);
      extra = std::min(extra, kFollowedWay / 2 * size);
    } else if (seen != nullptr && is_doubtful(track)) {
      boxes[1] = no_further(*seen, boxes[1], kWeakWay);
      extra = std::min(extra, kWeakWay / 4 * size);
    }
    if (matched) boxes.push_back(found->second.box);
    return region(&track, boxes, steps, extra);
  }

  // What must be replaced so that a face in any of `boxes`, `steps` frames from a sight and up to `extra` pixels beside
  // it, is covered. `track`: null for a face that was just found in the result.
  Box region(const Track* track, const std::vector<Box>& boxes, int steps, double extra) const {
    const double most = track != nullptr && is_doubtful(*track) ? kWeakGrowth : kMostGrowth;
    const double grown = std::min(most, std::pow(1 + settings.grow, std::min(steps, 100)));
    const double across = settings.across * grown;
    const double down = settings.down * grown;
    std::vector<Box> regions;
    for (std::size_t place = 0; place < boxes.size(); ++place) {
      const auto end = boxes.begin() + static_cast<std::ptrdiff_t>(place);
      if (std::find(boxes.begin(), end, boxes[place]) != end) continue;
      const Box box = boxes[place].scaled(across, down);
      regions.push_back({box.x - extra, box.y - extra, box.width + 2 * extra, box.height + 2 * extra});
    }
    return enclosing(regions);
  }

  // -- memory ----------------------------------------------------------------------------------

  void count(const Track& track, int index, CoverKind kind) {
    Counts& counts = counts_.try_emplace(track.number, Counts{index, index, track.best}).first->second;
    counts.first = std::min(counts.first, index);
    counts.last = std::max(counts.last, index);
    counts.best = std::max(counts.best, track.best);
    ++counts.kinds[static_cast<std::size_t>(kind)];
  }

  // Drop what frames after `frame` do not need.
  void forget(const Waiting& frame) {
    std::vector<TrackPtr> kept;
    for (const TrackPtr& track : tracks_) {
      track->forget_before(frame.index + 1);
      const bool ended = track->last().index <= frame.index && !is_held(*track, track->last(), frame);
      const bool active = std::find(active_.begin(), active_.end(), track) != active_.end();
      if (active || (track->shot >= frame.shot && !ended)) kept.push_back(track);
    }
    tracks_ = std::move(kept);
  }

  std::deque<Waiting> waiting_;
  std::deque<Waiting> popped_;
  std::vector<TrackPtr> active_;  // that a face can be assigned to
  std::vector<TrackPtr> tracks_;  // that a waiting frame may need, the active ones among them
  std::map<int, Counts> counts_;
  std::map<int, std::pair<double, int>> shots_;  // clock and shot of decided frames
  Clock clock_;
  std::optional<int> last_index_;
  int shot_ = 0;
  int numbers_ = 0;
  int matches_ = 0;
};

Guard::Guard(const GuardSettings& settings) : impl_(std::make_unique<Impl>(settings)) {}

Guard::~Guard() = default;

void Guard::push(int index, double pts, const cv::Mat& image, const std::vector<Face>& faces, bool cut) {
  impl_->push(index, pts, image, faces, cut);
}

void Guard::fail(int index, double pts, const cv::Mat& image, const std::string& reason, bool cut) {
  impl_->fail(index, pts, image, reason, cut);
}

void Guard::finish() { impl_->finished = true; }

Cover Guard::add_late(int index, const Face& face) { return impl_->add_late(index, face); }

std::optional<Verdict> Guard::pop() { return impl_->pop(); }

std::vector<TrackSummary> Guard::tracks() const { return impl_->summaries(); }

const GuardSettings& Guard::settings() const { return impl_->settings; }

}  // namespace genedge::faces
