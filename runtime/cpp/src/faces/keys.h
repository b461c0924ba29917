// Secrets of one recording: runtime/faces/passcode.py.
#pragma once

#include <memory>
#include <string>

#include "genedge/faces/methods.hpp"

namespace genedge::faces {

// HMAC-SHA256 of `data`, 32 bytes.
std::string hmac_sha256(const std::string& key, const std::string& data);

// 32 bytes that name a recording: the same for the same file wherever it lies, others for any other. What is live or on
// the network is never seen again: random. Throws UsageError for pictures, and VideoError where the file cannot be read.
std::string recording_of(const std::string& input, bool live);

// HKDF-SHA256 over `root`, 32 bytes: what one track or purpose gives tells nothing about another one.
class RecordingKeys : public TrackKeys {
 public:
  explicit RecordingKeys(std::string root) : root_(std::move(root)) {}

  // The same for the same passcode and recording (32 bytes), also in Python. Takes 64 MiB and a moment. Throws
  // UsageError for an empty passcode, and for one that this program cannot bring into Unicode's form NFC.
  static std::shared_ptr<RecordingKeys> from_passcode(const std::string& passcode, const std::string& recording);

  // No passcode: a fresh secret that is stored nowhere, so nobody can choose the same faces again.
  static std::shared_ptr<RecordingKeys> random();

  std::uint64_t number(int track, std::uint64_t below) const override;
  std::vector<bool> bits(int track, int count) const override;
  // `length` bytes for a purpose and a track, at most 8160.
  std::string secret(const std::string& purpose, int track, int length) const;

 private:
  const std::string root_;
};

}  // namespace genedge::faces
