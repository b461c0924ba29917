// Errors that a user can act on: the message says what failed and what to do, the exit code is that of the tool.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace genedge {

inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kNotMet = 3;        // parity or privacy not met
inline constexpr int kInterrupted = 130;  // 128 + SIGINT, as shells report it

/// Something failed; the message says what, and what to do about it.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, int exit_code = kFailed)
      : std::runtime_error(message), exit_code_(exit_code) {}

  int exit_code() const noexcept { return exit_code_; }

 private:
  int exit_code_;
};

/// The command or a value in it cannot be right.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(message, kUsage) {}
};

/// A bundle's manifest breaks the contract in MANIFEST.md.
class ManifestError : public Error {
 public:
  using Error::Error;
};

/// A video source or sink failed.
class VideoError : public Error {
 public:
  using Error::Error;
};

/// A source broke off: what was decoded before has been written.
class EndedEarlyError : public VideoError {
 public:
  using VideoError::VideoError;
};

/// A measured figure misses its limit.
class NotMetError : public Error {
 public:
  explicit NotMetError(const std::string& message) : Error(message, kNotMet) {}
};

/// `text` (UTF-8) with control characters spelled out: names in files can hold a terminal's escape sequences.
std::string printable(std::string_view text);

}  // namespace genedge
