// The checks of these tests: nothing to install, a message with file and line, and all of a test's checks run.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>

inline int failures = 0;

inline void check(bool good, const std::string& what, const char* file, int line) {
  if (good) return;
  ++failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

#define CHECK(condition) check(static_cast<bool>(condition), #condition, __FILE__, __LINE__)

/// Both must be printable by a stream.
#define CHECK_EQUAL(found, wanted)                                                       \
  do {                                                                                   \
    std::ostringstream words;                                                            \
    const auto found_value = (found);                                                    \
    const auto wanted_value = (wanted);                                                  \
    words << #found << " is " << found_value << ", not " << wanted_value;                \
    check(found_value == wanted_value, words.str(), __FILE__, __LINE__);                 \
  } while (false)

/// The expression throws an `Error` whose message contains the text.
#define CHECK_THROWS(Error, text, ...)                                                             \
  do {                                                                                             \
    std::string said = "nothing";                                                                  \
    bool right = false;                                                                            \
    try {                                                                                          \
      __VA_ARGS__;                                                                                 \
    } catch (const Error& error) {                                                                 \
      said = error.what();                                                                         \
      right = said.find(text) != std::string::npos;                                                \
    }                                                                                              \
    check(right, std::string(#__VA_ARGS__) + " throws: " + said + "\n  wanted: " + (text), __FILE__, __LINE__); \
  } while (false)

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

inline int result() {
  if (failures) std::fprintf(stderr, "%d checks failed\n", failures);
  return failures ? 1 : 0;
}
