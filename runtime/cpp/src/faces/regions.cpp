#include "faces/regions.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace genedge::faces {
namespace {

constexpr double kClose = 1.03;  // of an ellipse's size
constexpr double kSway = 0.08;   // of the face's size that smoothed landmarks may be beside those of the frame
constexpr int kPoints = 16;      // corners of a polygon around the unit circle
constexpr double kPi = 3.141592653589793;

// Weighted mean of one number: `middle`, and as many pairs as `reach` says, the nearest first.
template <typename Number>
double mean(double middle, const std::vector<std::pair<const Sight*, const Sight*>>& sides, int reach, Number number) {
  const double whole = (reach + 1.0) * (reach + 1.0);  // the sum of reach + 1, and twice reach, reach - 1, ..., 1
  double sum = (reach + 1.0) / whole * middle;
  for (int steps = 1; steps <= reach; ++steps) {
    const double weight = (reach + 1.0 - steps) / whole;
    const auto& pair = sides[static_cast<std::size_t>(steps - 1)];
    sum += weight * number(*pair.first);
    sum += weight * number(*pair.second);
  }
  return sum;
}

}  // namespace

Box enclosing(const std::vector<Box>& regions) {
  Box hull = regions.front();
  for (std::size_t place = 1; place < regions.size(); ++place) hull = hull.united(regions[place]);
  if (regions.size() == 1) return hull;
  const auto [x, y] = hull.center();
  const double across = std::max(1e-6, hull.width / 2);
  const double down = std::max(1e-6, hull.height / 2);
  double most = 1.0;
  for (const Box& region : regions) {
    if (region == hull) continue;
    const auto [middle, level] = region.center();
    const double left = (middle - x) / across;
    const double top = (level - y) / down;
    const double half = region.width / 2 / across;
    const double tall = region.height / 2 / down;
    const double enough = std::hypot(left, top) + std::max(half, tall);  // by the triangle inequality
    if (enough <= kClose) {  // a finer look would save little
      most = std::max(most, enough * enough);
      continue;
    }
    for (int place = 0; place < kPoints; ++place) {
      const double angle = 2 * kPi * place / kPoints;
      const double cosine = std::cos(angle) / std::cos(kPi / kPoints);
      const double sine = std::sin(angle) / std::cos(kPi / kPoints);
      const double far = left + half * cosine;
      const double low = top + tall * sine;
      most = std::max(most, far * far + low * low);
    }
  }
  return most == 1.0 ? hull : hull.scaled(std::sqrt(most));
}

bool plausible(const Landmarks& landmarks, double ease) {
  const double rx = landmarks[0].x, ry = landmarks[0].y;
  const double lx = landmarks[1].x, ly = landmarks[1].y;
  const double nx = landmarks[2].x, ny = landmarks[2].y;
  const double across_x = lx - rx, across_y = ly - ry;
  const double eyes_x = (rx + lx) / 2, eyes_y = (ry + ly) / 2;
  const double down_x = (static_cast<double>(landmarks[3].x) + landmarks[4].x) / 2 - eyes_x;
  const double down_y = (static_cast<double>(landmarks[3].y) + landmarks[4].y) / 2 - eyes_y;
  const double width = std::hypot(across_x, across_y);
  const double height = std::hypot(down_x, down_y);
  // too small to tell, or no numbers
  if (!(4 <= width && width < kMostNumber && 4 <= height && height < kMostNumber)) return false;
  if (!(0.45 - ease <= width / height && width / height <= 2.5 + ease)) return false;
  if (across_x < 0.3 * width || down_y < 0.3 * height) return false;  // rolled by more than 72 degrees, or upside down
  const double along = ((nx - rx) * across_x + (ny - ry) * across_y) / (width * width);
  const double below = ((nx - eyes_x) * down_x + (ny - eyes_y) * down_y) / (height * height);
  return 0.15 - ease <= along && along <= 0.85 + ease && -ease <= below && below <= 1.0 + ease;
}

std::pair<Box, std::optional<Landmarks>> smooth(const Track& track, const Sight& here) {
  Box box = here.box;
  std::vector<std::pair<const Sight*, const Sight*>> sides;
  while (static_cast<int>(sides.size()) < kSmoothed) {
    const int steps = static_cast<int>(sides.size()) + 1;
    const Sight* before = track.at(here.index - steps);
    const Sight* after = track.at(here.index + steps);
    if (before == nullptr || after == nullptr) break;
    sides.emplace_back(before, after);
  }
  if (sides.empty()) return {box, here.steady};
  for (int reach = static_cast<int>(sides.size()); reach > 0; --reach) {
    const Box average{mean(box.x, sides, reach, [](const Sight& sight) { return sight.box.x; }),
                      mean(box.y, sides, reach, [](const Sight& sight) { return sight.box.y; }),
                      mean(box.width, sides, reach, [](const Sight& sight) { return sight.box.width; }),
                      mean(box.height, sides, reach, [](const Sight& sight) { return sight.box.height; })};
    if (average.iou(box) > 0.8) {  // else it turns faster than the average can follow
      box = average;
      break;
    }
  }
  if (!here.landmarks) return {box, std::nullopt};
  int known = 0;
  for (const auto& [before, after] : sides) {
    if (!before->landmarks || !after->landmarks) break;
    ++known;
  }
  for (int reach = known; reach > 0; --reach) {
    Landmarks average;
    double most = 0;
    for (std::size_t place = 0; place < average.size(); ++place) {
      const Point& point = (*here.landmarks)[place];
      const double x = mean(point.x, sides, reach, [=](const Sight& sight) { return (*sight.landmarks)[place].x; });
      const double y = mean(point.y, sides, reach, [=](const Sight& sight) { return (*sight.landmarks)[place].y; });
      most = std::max({most, std::abs(x - point.x), std::abs(y - point.y)});
      average[place] = {static_cast<float>(x), static_cast<float>(y)};
    }
    if (most <= kSway * size_of(here.box)) return {box, average};
  }
  return {box, here.steady};
}

}  // namespace genedge::faces
