#include "genedge/faces/types.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace genedge::faces {

double Box::area() const { return std::max(0.0, width) * std::max(0.0, height); }

Box Box::scaled(double across, double down) const {
  const auto [middle, level] = center();
  const double wide = width * across;
  const double high = height * down;
  return {middle - wide / 2, level - high / 2, wide, high};
}

Box Box::united(const Box& other) const {
  const double left = std::min(x, other.x);
  const double top = std::min(y, other.y);
  const double right = std::max(x + width, other.x + other.width);
  const double bottom = std::max(y + height, other.y + other.height);
  return {left, top, right - left, bottom - top};
}

double Box::intersection(const Box& other) const {
  const double across = std::min(x + width, other.x + other.width) - std::max(x, other.x);
  const double down = std::min(y + height, other.y + other.height) - std::max(y, other.y);
  return std::max(0.0, across) * std::max(0.0, down);
}

double Box::iou(const Box& other) const {
  const double common = intersection(other);
  const double whole = area() + other.area() - common;
  return whole > 0 ? common / whole : 0.0;
}

bool operator<(const Box& one, const Box& other) {
  return std::tie(one.x, one.y, one.width, one.height) < std::tie(other.x, other.y, other.width, other.height);
}

const char* name_of(CoverKind kind) {
  static constexpr const char* kNames[kCoverKinds] = {"detected", "held", "filled", "interpolated", "rechecked"};
  return kNames[static_cast<int>(kind)];
}

double feather_of(const Box& region) {
  return std::min(24.0, std::max(1.0, 0.1 * std::min(region.width, region.height)));
}

Window uncut_window(const Box& region) {
  // a region may be far larger than any frame, and a whole number cannot be; nothing beyond this is a pixel
  const auto whole = [](double value) { return static_cast<int>(std::clamp(value, -1e9, 1e9)); };
  const double edge = feather_of(region) + 1;
  return {whole(std::floor(region.x - edge)), whole(std::floor(region.y - edge)),
          whole(std::ceil(region.x + region.width + edge)), whole(std::ceil(region.y + region.height + edge))};
}

Window changed_window(const Box& region, int width, int height) {
  const Window all = uncut_window(region);
  return {std::max(0, all.left), std::max(0, all.top), std::min(width, all.right), std::min(height, all.bottom)};
}

}  // namespace genedge::faces
