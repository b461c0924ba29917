// Numbers that numpy gives for a seed, so that a track has the same noise whichever program draws it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace genedge::faces {

// `count` numbers of numpy.random.Generator(PCG64(seed)).standard_normal.
std::vector<double> standard_normal(std::uint64_t seed, std::size_t count);

}  // namespace genedge::faces
