#include "faces/track.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace genedge::faces {
namespace {

constexpr double kTight = 0.55;      // distance of the centres in face sizes up to which a pair is made first
constexpr double kTightMost = 1.25;  // the same after frames without a sight, in which the noise of the velocity adds up
constexpr double kLoose = 0.9;       // the same for what is left;
constexpr double kLooser = 0.15;     // more for every frame without a sight;
constexpr double kLoosest = 2.5;     // at most
constexpr double kWide = 2.5;        // for a face that jumps: a frame,
constexpr double kWidest = 5.0;      // and altogether
constexpr double kOverlap = 0.2;     // intersection over union that makes a pair tight at any distance
constexpr double kSizeRatio = 2.2;   // a face does not become this much larger from one sight to the next
constexpr double kFade = 0.9;        // a frame
constexpr int kBackFrames = 4;       // over which the velocity before the first sight is taken
constexpr float kLandmarkGain = 0.6f;  // share of a new sight in the landmarks
constexpr double kTurned = 0.2;      // of the face's size: landmarks that differ by more are taken as they are

// Frames' worth of motion after `steps` frames without a sight.
double travelled(int steps) {
  if (steps <= kTravel) return steps;
  return kTravel + kFade * (1 - std::pow(kFade, steps - kTravel)) / (1 - kFade);
}

// Landmarks of `face` in the frame after `last`, pulled towards where those of `last` have moved.
std::optional<Landmarks> steadied(const Sight& last, const Face& face, const Motion& motion) {
  if (!face.landmarks || !last.steady) return face.landmarks;
  const float dx = static_cast<float>(motion.dx);
  const float dy = static_cast<float>(motion.dy);
  Landmarks result;
  float most = 0;
  for (std::size_t place = 0; place < result.size(); ++place) {
    const Point guess{(*last.steady)[place].x + dx, (*last.steady)[place].y + dy};
    const Point error{(*face.landmarks)[place].x - guess.x, (*face.landmarks)[place].y - guess.y};
    most = std::max({most, std::abs(error.x), std::abs(error.y)});
    result[place] = {guess.x + kLandmarkGain * error.x, guess.y + kLandmarkGain * error.y};
  }
  if (static_cast<double>(most) > kTurned * size_of(face.box)) return face.landmarks;
  return result;
}

}  // namespace

Track::Around Track::around(int index) const {
  Around found;
  for (const Sight& sight : sights) {
    if (sight.index < index) {
      found.before = &sight;
    } else if (sight.index == index) {
      found.here = &sight;
    } else {
      found.after = &sight;
      break;
    }
  }
  return found;
}

const Sight* Track::at(int index) const {
  for (auto sight = sights.rbegin(); sight != sights.rend(); ++sight) {
    if (sight->index <= index) return sight->index == index ? &*sight : nullptr;
  }
  return nullptr;
}

void Track::forget_before(int index) {
  while (sights.size() > 1 && sights[1].index < index - kSmoothed) sights.erase(sights.begin());
  matched.erase(matched.begin(), matched.lower_bound(index - 1));
}

Box Track::expected(int index) const {
  const auto known = matched.find(index - 1);
  if (known != matched.end()) return known->second.box.moved(last().motion.dx, last().motion.dy);
  return predicted(last(), index - last().index);
}

Motion Track::motion_from(const Sight& first) const {
  Motion motion;
  for (const Sight& sight : sights) {
    const int steps = sight.index - first.index;
    if (steps > 0 && (steps <= kBackFrames || motion.known == 0)) {
      const auto [x, y] = first.box.center();
      const auto [to_x, to_y] = sight.box.center();
      motion = {(to_x - x) / steps, (to_y - y) / steps, 0.0, 0.0, steps};
    }
  }
  return motion;
}

void Track::see(const Face& face, int index, double clock, bool sure, bool late) {
  const Sight& before = last();
  const int steps = std::max(1, index - before.index);
  const Box guess = predicted(before, steps);
  const double size = size_of(before.box);
  const auto [x, y] = face.box.center();
  const auto [guess_x, guess_y] = guess.center();
  const double gain = std::max(kSteadyGain, 1.0 / (before.motion.known + 1));
  const double error_x = (x - guess_x) / steps;
  const double error_y = (y - guess_y) / steps;
  const double grown = (std::sqrt(std::max(1e-6, face.box.area()) / std::max(1e-6, guess.area())) - 1) / steps;
  const double off = std::max(0.0, std::hypot(error_x, error_y) - kJitter * size);
  const Motion motion{before.motion.dx + gain * error_x, before.motion.dy + gain * error_y,
                      std::min(0.25, std::max(-0.25, before.motion.growth + kSteadyGain * grown)),
                      before.motion.known == 0 ? off : 0.5 * (off + before.motion.off), before.motion.known + 1};
  const std::optional<Landmarks> steady = steps == 1 ? steadied(before, face, motion) : face.landmarks;
  sights.push_back({index, clock, face.box, face.score, face.landmarks, steady, sure, motion, late});
  blind = false;
  ++seen;
  best = std::max(best, face.score);
}

double size_of(const Box& box) { return std::sqrt(std::max(1.0, box.width * box.height)); }

Box predicted(const Sight& sight, int steps) {
  const double way = travelled(steps);
  const Box box = sight.box.moved(sight.motion.dx * way, sight.motion.dy * way);
  const double factor = std::min(1.6, std::max(0.67, 1 + sight.motion.growth * way));
  return factor == 1.0 ? box : box.scaled(factor);
}

Box between(const Box& one, const Box& other, double share) {
  return {one.x + share * (other.x - one.x), one.y + share * (other.y - one.y),
          one.width + share * (other.width - one.width), one.height + share * (other.height - one.height)};
}

Landmarks carried(const Landmarks& landmarks, const Box& box, const Box& to) {
  const auto [x, y] = box.center();
  const auto [to_x, to_y] = to.center();
  const float across = static_cast<float>(to.width / std::max(1e-6, box.width));
  const float down = static_cast<float>(to.height / std::max(1e-6, box.height));
  Landmarks result;
  for (std::size_t place = 0; place < result.size(); ++place) {
    result[place] = {(landmarks[place].x - static_cast<float>(x)) * across + static_cast<float>(to_x),
                     (landmarks[place].y - static_cast<float>(y)) * down + static_cast<float>(to_y)};
  }
  return result;
}

Compared compared(const Box& one, const Box& other) {
  const double size = std::sqrt(std::max(1.0, one.width * one.height));
  const double other_size = std::sqrt(std::max(1.0, other.width * other.height));
  const double larger = std::max(size, other_size);
  const double aside = one.x + one.width / 2 - (other.x + other.width / 2);
  const double below = one.y + one.height / 2 - (other.y + other.height / 2);
  const double distance = std::sqrt(aside * aside + below * below) / larger;
  double common = std::max(0.0, std::min(one.x + one.width, other.x + other.width) - std::max(one.x, other.x));
  common *= std::max(0.0, std::min(one.y + one.height, other.y + other.height) - std::max(one.y, other.y));
  const double whole = one.width * one.height + other.width * other.height - common;
  return {distance, larger / std::min(size, other_size), common / std::max(1e-9, whole)};
}

std::vector<Pair> assign(const std::vector<TrackPtr>& tracks, const std::vector<Face>& faces, int index, double high) {
  std::vector<Pair> pairs;
  if (tracks.empty() || faces.empty()) return pairs;
  struct Candidate {
    std::size_t row;
    std::size_t column;
    Compared at;
    double cost;
  };
  std::vector<Candidate> all;  // row by row
  all.reserve(tracks.size() * faces.size());
  for (std::size_t row = 0; row < tracks.size(); ++row) {
    const Box expected = tracks[row]->expected(index);
    for (std::size_t column = 0; column < faces.size(); ++column) {
      const Compared at = compared(expected, faces[column].box);
      all.push_back({row, column, at, at.distance + 0.5 * std::log(at.ratio) + (1 - at.iou)});
    }
  }
  std::vector<char> free_tracks(tracks.size(), 1);
  std::vector<char> free_faces(faces.size(), 1);
  const auto missed = [&](const Candidate& each) {
    return static_cast<double>(std::max(0, index - tracks[each.row]->last().index - 1));
  };
  const auto strong = [&](const Candidate& each) { return faces[each.column].score >= high; };
  const auto tight = [&](const Candidate& each) {
    const double noise = std::max(kSteadyGain, 1.0 / std::max(1, tracks[each.row]->last().motion.known));
    const double reach = std::min(kTightMost, kTight + 1.5 * kJitter * noise * missed(each));
    return each.at.ratio < kSizeRatio && (each.at.distance < reach || each.at.iou > kOverlap);
  };
  // what was never more than weak is mostly no face and jumps about: it only follows what is near
  const auto trusted = [&](const Candidate& each) { return strong(each) || tracks[each.row]->best >= high; };

  // Make the pairs of one pass, the best one first; whether both tracks and faces are left.
  const auto pair = [&](const auto& possible) {
    std::vector<const Candidate*> order;
    for (const Candidate& each : all) {
      if (possible(each)) order.push_back(&each);
    }
    std::stable_sort(order.begin(), order.end(),
                     [](const Candidate* one, const Candidate* other) { return one->cost < other->cost; });
    for (const Candidate* each : order) {
      if (!free_tracks[each->row] || !free_faces[each->column]) continue;
      const bool stayed = each->at.iou >= kOverlap ||
                          faces[each->column].box.iou(tracks[each->row]->last().box) >= kOverlap;
      pairs.push_back({static_cast<int>(each->row), static_cast<int>(each->column), !stayed});
      free_tracks[each->row] = free_faces[each->column] = 0;
    }
    const auto any = [](const std::vector<char>& left) { return std::find(left.begin(), left.end(), 1) != left.end(); };
    return any(free_tracks) && any(free_faces);
  };

  if (!pair([&](const Candidate& each) { return tight(each) && strong(each); })) return pairs;
  if (!pair([&](const Candidate& each) { return tight(each) && !strong(each); })) return pairs;
  const bool left = pair([&](const Candidate& each) {
    return each.at.ratio < kSizeRatio && trusted(each) &&
           each.at.distance < std::min(kLoosest, kLoose + kLooser * missed(each));
  });
  if (!left) return pairs;

  std::vector<int> in_row(tracks.size(), 0);
  std::vector<int> in_column(faces.size(), 0);
  std::vector<const Candidate*> wide;
  for (const Candidate& each : all) {
    if (each.at.ratio < std::sqrt(kSizeRatio) && trusted(each) && free_tracks[each.row] && free_faces[each.column] &&
        each.at.distance < std::min(kWidest, kWide * (1 + missed(each)))) {
      wide.push_back(&each);
      ++in_row[each.row];
      ++in_column[each.column];
    }
  }
  for (const Candidate* each : wide) {
    if (in_row[each->row] == 1 && in_column[each->column] == 1) {
      pairs.push_back({static_cast<int>(each->row), static_cast<int>(each->column), true});
    }
  }
  return pairs;
}

}  // namespace genedge::faces
