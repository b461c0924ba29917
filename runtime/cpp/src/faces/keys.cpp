#include "faces/keys.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "faces/argon2.h"
#include "genedge/codes.hpp"
#include "genedge/error.hpp"
#include "sha256.hpp"
#include "uri.hpp"

namespace genedge::faces {
namespace {

constexpr std::size_t kBlock = 64;  // bytes of a block of SHA-256
constexpr int kKeyBytes = 32;
constexpr int kMostExpanded = 255 * 32;  // bytes; RFC 5869, section 2.3
constexpr std::size_t kSaltBytes = 16;
constexpr std::streamoff kEdge = 1 << 20;  // bytes read at each end of a recording
constexpr const char* kContext = "genedge faces 1";

std::string hashed(const std::string& data) {
  const Digest digest = sha256(data);
  return {digest.begin(), digest.end()};
}

std::string big(std::uint64_t number) {
  std::string bytes;
  for (int shift = 56; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(number >> shift & 0xff));
  return bytes;
}

std::string labelled(const std::string& label, const std::string& data) {
  return hashed(kContext + std::string(1, '\0') + label + std::string(1, '\0') + data);
}

std::string random_bytes() {
  std::string bytes(kKeyBytes, '\0');
  std::ifstream device("/dev/urandom", std::ios::binary);
  if (!device.read(bytes.data(), kKeyBytes)) throw Error("/dev/urandom cannot be read: there is no secret to be had");
  return bytes;
}

}  // namespace

std::string recording_of(const std::string& input, bool live) {
  if (live) return random_bytes();
  const SourceUri uri = parse_source(input);
  if (uri.kind == SourceKind::folder || uri.kind == SourceKind::pattern) {
    throw UsageError("a passcode for many pictures is taken by `python -m runtime` only: give a film or one picture");
  }
  const bool file = uri.kind == SourceKind::file || uri.kind == SourceKind::picture;
  if (!file || !std::filesystem::is_regular_file(uri.target)) return random_bytes();
  std::ifstream stream(uri.target, std::ios::binary | std::ios::ate);
  const std::streamoff size = stream ? static_cast<std::streamoff>(stream.tellg()) : 0;
  std::string first(static_cast<std::size_t>(std::min(size, kEdge)), '\0'), last = first;
  stream.seekg(0);
  stream.read(first.data(), static_cast<std::streamsize>(first.size()));
  stream.seekg(size - static_cast<std::streamoff>(last.size()));
  stream.read(last.data(), static_cast<std::streamsize>(last.size()));
  if (!stream) throw VideoError(uri.target + ": " + std::strerror(errno));
  return labelled("file", hashed(big(static_cast<std::uint64_t>(size)) + hashed(first) + last));
}

std::string hmac_sha256(const std::string& key, const std::string& data) {  // RFC 2104
  std::string inner = key.size() > kBlock ? hashed(key) : key;
  inner.resize(kBlock, '\0');
  std::string outer = inner;
  for (char& byte : inner) byte = static_cast<char>(byte ^ 0x36);
  for (char& byte : outer) byte = static_cast<char>(byte ^ 0x5c);
  return hashed(outer + hashed(inner + data));
}

std::shared_ptr<RecordingKeys> RecordingKeys::from_passcode(const std::string& passcode, const std::string& recording) {
  passcode_bits(passcode, 1);  // complains of what cannot be brought into NFC
  const std::string salt = labelled("salt", recording).substr(0, kSaltBytes);
  return std::make_shared<RecordingKeys>(hmac_sha256(recording, argon2id(passcode, salt)));
}

std::shared_ptr<RecordingKeys> RecordingKeys::random() { return std::make_shared<RecordingKeys>(random_bytes()); }

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
  const std::string info = std::string(kContext) + '\0' + purpose + '\0' + big(static_cast<std::uint64_t>(track));
  std::string result, block;
  for (char counter = 1; static_cast<int>(result.size()) < length; ++counter) {
    block = hmac_sha256(root_, block + info + counter);
    result += block;
  }
  result.resize(static_cast<std::size_t>(length));
  return result;
}

}  // namespace genedge::faces
