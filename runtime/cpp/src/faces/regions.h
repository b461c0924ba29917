// The geometry of what is covered: runtime/faces/regions.py.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "faces/track.h"
#include "genedge/faces/types.hpp"

namespace genedge::faces {

// A box whose inscribed ellipse holds those of all `regions`, of which there is at least one.
Box enclosing(const std::vector<Box>& regions);

// Whether five landmarks are those of a face that can be drawn. `ease`, such as 0.1, widens the ranges.
bool plausible(const Landmarks& landmarks, double ease = 0.0);

// Box and landmarks of a sight, averaged with as many sights before as after.
std::pair<Box, std::optional<Landmarks>> smooth(const Track& track, const Sight& here);

}  // namespace genedge::faces
