#include "faces/argon2.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace genedge::faces {
namespace {

using Word = std::uint64_t;

constexpr std::size_t kTag = 32;        // bytes
constexpr std::size_t kBlockWords = 128;  // of 1 KiB
constexpr unsigned kSlices = 4;
constexpr std::uint32_t kVersion = 0x13, kArgon2id = 2;

using Block = std::array<Word, kBlockWords>;

Word rotated(Word word, int right) { return word >> right | word << (64 - right); }

std::string little(std::uint32_t number) {
  std::string bytes;
  for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(number >> shift & 0xff));
  return bytes;
}

Word word_at(const unsigned char* bytes) {
  Word word = 0;
  for (int place = 7; place >= 0; --place) word = word << 8 | bytes[place];
  return word;
}

// -- BLAKE2b (RFC 7693) --------------------------------------------------------------------------

constexpr std::array<Word, 8> kStart = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                        0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr unsigned char kOrder[10][16] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                          {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
                                          {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
                                          {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
                                          {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
                                          {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
                                          {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
                                          {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
                                          {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
                                          {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

void compress(std::array<Word, 8>& state, const unsigned char* block, Word count, bool last) {
  std::array<Word, 16> words, v;
  for (std::size_t place = 0; place < 16; ++place) words[place] = word_at(block + 8 * place);
  std::copy(state.begin(), state.end(), v.begin());
  std::copy(kStart.begin(), kStart.end(), v.begin() + 8);
  v[12] ^= count;
  if (last) v[14] = ~v[14];
  const auto mix = [&](std::size_t a, std::size_t b, std::size_t c, std::size_t d, Word x, Word y) {
    v[a] += v[b] + x;
    v[d] = rotated(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = rotated(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = rotated(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = rotated(v[b] ^ v[c], 63);
  };
  for (std::size_t round = 0; round < 12; ++round) {
    const unsigned char* order = kOrder[round % 10];
    for (std::size_t column = 0; column < 4; ++column) {
      mix(column, column + 4, column + 8, column + 12, words[order[2 * column]], words[order[2 * column + 1]]);
    }
    for (std::size_t column = 0; column < 4; ++column) {
      mix(column, (column + 1) % 4 + 4, (column + 2) % 4 + 8, (column + 3) % 4 + 12, words[order[8 + 2 * column]],
          words[order[9 + 2 * column]]);
    }
  }
  for (std::size_t place = 0; place < 8; ++place) state[place] ^= v[place] ^ v[place + 8];
}

// The hash of `data`, `length` bytes, at most 64.
std::string blake2b(const std::string& data, std::size_t length) {
  constexpr std::size_t kInput = 128;
  std::array<Word, 8> state = kStart;
  state[0] ^= 0x01010000 ^ length;
  std::size_t done = 0;
  std::array<unsigned char, kInput> block;
  do {
    const std::size_t part = std::min(kInput, data.size() - done);
    block.fill(0);
    std::memcpy(block.data(), data.data() + done, part);
    done += part;
    compress(state, block.data(), done, done == data.size());
  } while (done < data.size());
  std::string result;
  for (const Word word : state) {
    for (int shift = 0; shift < 64; shift += 8) result.push_back(static_cast<char>(word >> shift & 0xff));
  }
  return result.substr(0, length);
}

// RFC 9106, section 3.3: a hash of any length.
std::string long_hash(const std::string& data, std::size_t length) {
  const std::string input = little(static_cast<std::uint32_t>(length)) + data;
  if (length <= 64) return blake2b(input, length);
  std::string result, part = blake2b(input, 64);
  while (length - result.size() > 64) {
    result += part.substr(0, 32);
    const std::size_t left = length - result.size();
    part = blake2b(part, std::min<std::size_t>(64, left));
  }
  return result + part;
}

// -- filling the memory (RFC 9106, section 3) ----------------------------------------------------

// One round of BLAKE2b with multiplications, over 16 words `at` of a block.
template <typename At>
void permute(Block& block, At at) {
  const auto mix = [&](int first, int second, int third, int fourth) {
    Word &a = block[at(first)], &b = block[at(second)], &c = block[at(third)], &d = block[at(fourth)];
    const auto sum = [](Word x, Word y) { return x + y + 2 * (x & 0xffffffff) * (y & 0xffffffff); };
    a = sum(a, b);
    d = rotated(d ^ a, 32);
    c = sum(c, d);
    b = rotated(b ^ c, 24);
    a = sum(a, b);
    d = rotated(d ^ a, 16);
    c = sum(c, d);
    b = rotated(b ^ c, 63);
  };
  for (int column = 0; column < 4; ++column) mix(column, column + 4, column + 8, column + 12);
  for (int column = 0; column < 4; ++column) {
    mix(column, (column + 1) % 4 + 4, (column + 2) % 4 + 8, (column + 3) % 4 + 12);
  }
}

// The compression function G.
Block compressed(const Block& one, const Block& other) {
  Block mixed, result;
  for (std::size_t place = 0; place < kBlockWords; ++place) mixed[place] = one[place] ^ other[place];
  result = mixed;
  for (std::size_t row = 0; row < 8; ++row) {
    permute(result, [row](int place) { return 16 * row + static_cast<std::size_t>(place); });
  }
  for (std::size_t column = 0; column < 8; ++column) {
    permute(result, [column](int place) {
      const auto number = static_cast<std::size_t>(place);
      return 2 * column + 16 * (number / 2) + number % 2;
    });
  }
  for (std::size_t place = 0; place < kBlockWords; ++place) result[place] ^= mixed[place];
  return result;
}

Block block_of(const std::string& bytes) {
  Block block;
  for (std::size_t place = 0; place < kBlockWords; ++place) {
    block[place] = word_at(reinterpret_cast<const unsigned char*>(bytes.data()) + 8 * place);
  }
  return block;
}

// The memory, lane by lane.
class Memory {
 public:
  Memory(const Cost& cost, const std::string& first)
      : cost_(cost), columns_(cost.memory / (kSlices * cost.lanes) * kSlices), blocks_(columns_ * cost.lanes) {
    for (unsigned lane = 0; lane < cost.lanes; ++lane) {
      for (unsigned column = 0; column < 2; ++column) {
        at(lane, column) = block_of(long_hash(first + little(column) + little(lane), 8 * kBlockWords));
      }
    }
  }

  std::string tag() {
    for (unsigned pass = 0; pass < cost_.passes; ++pass) {
      for (unsigned slice = 0; slice < kSlices; ++slice) {
        for (unsigned lane = 0; lane < cost_.lanes; ++lane) fill(pass, slice, lane);
      }
    }
    Block last = at(0, columns_ - 1);
    for (unsigned lane = 1; lane < cost_.lanes; ++lane) {
      for (std::size_t place = 0; place < kBlockWords; ++place) last[place] ^= at(lane, columns_ - 1)[place];
    }
    std::string bytes;
    for (const Word word : last) {
      for (int shift = 0; shift < 64; shift += 8) bytes.push_back(static_cast<char>(word >> shift & 0xff));
    }
    return long_hash(bytes, kTag);
  }

 private:
  Block& at(unsigned lane, unsigned column) { return blocks_[static_cast<std::size_t>(lane) * columns_ + column]; }

  // Fill a segment, a quarter of a lane.
  void fill(unsigned pass, unsigned slice, unsigned lane) {
    const unsigned length = columns_ / kSlices;
    const bool independent = pass == 0 && slice < 2;  // of the data, in where it reads
    Block input{}, addresses{};
    input[0] = pass;
    input[1] = lane;
    input[2] = slice;
    input[3] = static_cast<Word>(columns_) * cost_.lanes;
    input[4] = cost_.passes;
    input[5] = kArgon2id;
    for (unsigned index = 0; index < length; ++index) {
      if (independent && index % kBlockWords == 0) {
        ++input[6];
        addresses = compressed(Block{}, compressed(Block{}, input));
      }
      if (pass == 0 && slice == 0 && index < 2) continue;  // made from the input
      const unsigned column = slice * length + index;
      const Block& before = at(lane, column == 0 ? columns_ - 1 : column - 1);
      const Word number = independent ? addresses[index % kBlockWords] : before[0];
      const Word first = number & 0xffffffff, second = number >> 32;
      const unsigned other = pass == 0 && slice == 0 ? lane : static_cast<unsigned>(second % cost_.lanes);
      Word area = pass == 0 ? slice * length : columns_ - length;
      if (other == lane) area += index;
      if (other == lane || index == 0) area -= 1;  // not the block before
      const Word place = area - 1 - (area * (first * first >> 32) >> 32);
      const Word start = pass == 0 || slice == kSlices - 1 ? 0 : (slice + 1) * length;
      const Block made = compressed(before, at(other, static_cast<unsigned>((start + place) % columns_)));
      Block& here = at(lane, column);
      for (std::size_t word = 0; word < kBlockWords; ++word) here[word] = pass == 0 ? made[word] : here[word] ^ made[word];
    }
  }

  const Cost cost_;
  const unsigned columns_;
  std::vector<Block> blocks_;
};

}  // namespace

std::string argon2id(const std::string& passcode, const std::string& salt, const Cost& cost, const std::string& secret,
                     const std::string& data) {
  if (cost.lanes < 1 || cost.passes < 1 || cost.memory < 8 * cost.lanes || salt.size() < 8) {
    throw std::invalid_argument("Argon2id takes 8 KiB for every lane and a salt of 8 bytes at least");
  }
  std::string input = little(cost.lanes) + little(kTag) + little(cost.memory) + little(cost.passes) +
                      little(kVersion) + little(kArgon2id);
  for (const std::string* each : {&passcode, &salt, &secret, &data}) {
    input += little(static_cast<std::uint32_t>(each->size())) + *each;
  }
  return Memory(cost, blake2b(input, 64)).tag();
}

}  // namespace genedge::faces
