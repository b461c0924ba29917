#pragma once

#include <array>
#include <string_view>

namespace genedge {

using Digest = std::array<unsigned char, 32>;

Digest sha256(std::string_view data);

}  // namespace genedge
