#include "faces/keys.h"

#include <fstream>
#include <stdexcept>

#include "genedge/error.hpp"
#include "sha256.hpp"

namespace genedge::faces {
namespace {

constexpr std::size_t kBlock = 64;  // bytes of a block of SHA-256
constexpr int kKeyBytes = 32;
constexpr int kMostExpanded = 255 * 32;  // bytes; RFC 5869, section 2.3

std::string hashed(const std::string& data) {
  const Digest digest = sha256(data);
  return {digest.begin(), digest.end()};
}

}  // namespace

std::string hmac_sha256(const std::string& key, const std::string& data) {  // RFC 2104
  std::string inner = key.size() > kBlock ? hashed(key) : key;
  inner.resize(kBlock, '\0');
  std::string outer = inner;
  for (char& byte : inner) byte = static_cast<char>(byte ^ 0x36);
  for (char& byte : outer) byte = static_cast<char>(byte ^ 0x5c);
  return hashed(outer + hashed(inner + data));
}

std::shared_ptr<RecordingKeys> RecordingKeys::random() {
  std::string root(kKeyBytes, '\0');
  std::ifstream device("/dev/urandom", std::ios::binary);
  if (!device.read(root.data(), kKeyBytes)) throw Error("/dev/urandom cannot be read: there is no secret to be had");
  return std::make_shared<RecordingKeys>(std::move(root));
}

std::uint64_t RecordingKeys::number(int track, std::uint64_t below) const {
  if (below < 1) throw std::invalid_argument("there is no number below 0");
  __extension__ using Wide = unsigned __int128;
  Wide rest = 0;
  // 24 bytes: how much likelier one number is than another is far below 2**-100
  for (const char byte : secret("number", track, 24)) rest = (rest * 256 + static_cast<unsigned char>(byte)) % below;
  return static_cast<std::uint64_t>(rest);
}

std::vector<bool> RecordingKeys::bits(int track, int count) const {
  const std::string bytes = secret("bits", track, (count + 7) / 8);
  std::vector<bool> result;
  for (int place = 0; place < count; ++place) {
    const auto byte = static_cast<unsigned char>(bytes[static_cast<std::size_t>(place / 8)]);
    result.push_back((byte >> (7 - place % 8) & 1) != 0);
  }
  return result;
}

std::string RecordingKeys::secret(const std::string& purpose, int track, int length) const {
  if (length < 0 || length > kMostExpanded) throw std::invalid_argument("HKDF gives 0 to 8160 bytes");
  std::string info = std::string("genedge faces 1") + '\0' + purpose + '\0';
  for (int shift = 56; shift >= 0; shift -= 8) {
    info.push_back(static_cast<char>(static_cast<std::uint64_t>(track) >> shift & 0xff));
  }
  std::string result, block;
  for (char counter = 1; static_cast<int>(result.size()) < length; ++counter) {
    block = hmac_sha256(root_, block + info + counter);
    result += block;
  }
  result.resize(static_cast<std::size_t>(length));
  return result;
}

}  // namespace genedge::faces
