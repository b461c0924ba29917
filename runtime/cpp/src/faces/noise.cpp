#include "faces/noise.h"

#include <array>
#include <cmath>

namespace genedge::faces {
namespace {

__extension__ using Wide = unsigned __int128;

// numpy's SeedSequence: four pool words, mixed with each other (after O'Neill's seed_seq_fe).
std::array<std::uint64_t, 4> seeded(std::uint64_t seed) {
  constexpr std::uint32_t kMixLeft = 0xca01f9dd, kMixRight = 0x4973f715;
  std::uint32_t hash = 0x43b0d7e5;
  const auto hashed = [&hash](std::uint32_t value) {
    value ^= hash;
    hash *= 0x931e8875;
    value *= hash;
    return value ^ value >> 16;
  };
  std::array<std::uint32_t, 4> pool = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32), 0, 0};
  for (std::uint32_t& word : pool) word = hashed(word);
  for (std::size_t from = 0; from < 4; ++from) {
    for (std::size_t to = 0; to < 4; ++to) {
      if (from == to) continue;
      const std::uint32_t mixed = kMixLeft * pool[to] - kMixRight * hashed(pool[from]);
      pool[to] = mixed ^ mixed >> 16;
    }
  }
  hash = 0x8b51f9dd;
  std::array<std::uint64_t, 4> state{};
  for (std::size_t place = 0; place < 8; ++place) {
    std::uint32_t value = pool[place % 4] ^ hash;
    hash *= 0x58f38ded;
    value *= hash;
    value ^= value >> 16;
    state[place / 2] |= static_cast<std::uint64_t>(value) << (place % 2 == 0 ? 0 : 32);
  }
  return state;
}

// PCG XSL RR 128/64 (O'Neill, 2014).
class Pcg64 {
 public:
  explicit Pcg64(std::uint64_t seed) {
    const auto [high, low, more, less] = seeded(seed);
    step_ = (static_cast<Wide>(more) << 64 | less) << 1 | 1;
    advance();
    state_ += static_cast<Wide>(high) << 64 | low;
    advance();
  }

  std::uint64_t next() {
    advance();
    const auto turn = static_cast<unsigned>(state_ >> 122);
    const std::uint64_t folded = static_cast<std::uint64_t>(state_ >> 64) ^ static_cast<std::uint64_t>(state_);
    return folded >> turn | folded << ((64 - turn) % 64);
  }

  // From 0 to 1, without it.
  double share() { return static_cast<double>(next() >> 11) * (1.0 / 9007199254740992.0); }

 private:
  void advance() {
    constexpr Wide kFactor = static_cast<Wide>(2549297995355413924u) << 64 | 4865540595714422341u;
    state_ = state_ * kFactor + step_;
  }

  Wide state_ = 0;
  Wide step_ = 0;
};

// Marsaglia and Tsang, The ziggurat method for generating random variables (2000), with 256 layers of 52 bits.
struct Ziggurat {
  static constexpr double kEnd = 3.6541528853610087963519472518;
  static constexpr double kArea = 0.00492867323397465524494;

  std::array<double, 256> width, height;
  std::array<std::uint64_t, 256> within;

  Ziggurat() {
    constexpr double kSteps = 4503599627370496.0;  // 2^52
    double here = kEnd, before = kEnd;
    const double base = kArea / std::exp(-0.5 * here * here);
    within[0] = static_cast<std::uint64_t>(here / base * kSteps);
    within[1] = 0;
    width[0] = base / kSteps;
    width[255] = here / kSteps;
    height[0] = 1.0;
    height[255] = std::exp(-0.5 * here * here);
    for (std::size_t layer = 254; layer > 0; --layer) {
      here = std::sqrt(-2 * std::log(kArea / here + std::exp(-0.5 * here * here)));
      within[layer + 1] = static_cast<std::uint64_t>(here / before * kSteps);
      before = here;
      height[layer] = std::exp(-0.5 * here * here);
      width[layer] = here / kSteps;
    }
  }
};

double normal(Pcg64& random) {
  static const Ziggurat ziggurat;
  while (true) {
    std::uint64_t bits = random.next();
    const std::size_t layer = bits & 0xff;
    bits >>= 8;
    const std::uint64_t place = bits >> 1 & 0x000fffffffffffff;
    const double value = static_cast<double>(place) * ziggurat.width[layer] * ((bits & 1) != 0 ? -1 : 1);
    if (place < ziggurat.within[layer]) return value;
    if (layer == 0) {
      while (true) {
        const double beyond = -std::log1p(-random.share()) / Ziggurat::kEnd;
        const double high = -std::log1p(-random.share());
        if (high + high > beyond * beyond) {
          return (place >> 8 & 1) != 0 ? -(Ziggurat::kEnd + beyond) : Ziggurat::kEnd + beyond;
        }
      }
    }
    const double upper = ziggurat.height[layer - 1], lower = ziggurat.height[layer];
    if ((upper - lower) * random.share() + lower < std::exp(-0.5 * value * value)) return value;
  }
}

}  // namespace

std::vector<double> standard_normal(std::uint64_t seed, std::size_t count) {
  Pcg64 random(seed);
  std::vector<double> numbers;
  for (std::size_t place = 0; place < count; ++place) numbers.push_back(normal(random));
  return numbers;
}

}  // namespace genedge::faces
