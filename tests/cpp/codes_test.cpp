// What people type for a code. The numbers are those of runtime/codes.py.
#include "check.hpp"
#include "genedge/codes.hpp"
#include "genedge/error.hpp"

using genedge::Code;
using genedge::UsageError;

namespace {

std::string spelled(const std::vector<float>& values) {
  std::ostringstream out;
  for (const float value : values) out << value << ' ';
  return out.str();
}

std::string spelled(const std::vector<bool>& bits) {
  std::string text;
  for (const bool bit : bits) text += bit ? '1' : '0';
  return text;
}

}  // namespace

int main() {
  const Code style{"one-hot", {1, 0, 0}, 0, 1, {"rain", "candy", "udnie"}};
  CHECK_EQUAL(spelled(style.parsed(" candy ", "style")), "0 1 0 ");
  CHECK_EQUAL(spelled(style.parsed("2", "style")), "0 0 1 ");
  CHECK_THROWS(UsageError, "style has 3 classes, 0 to 2 (rain, candy, udnie); 3 is none of them",
               style.parsed("3", "style"));

  const Code bits{"bits", {0, 0, 0, 0}, -1, 1, {}};
  CHECK_EQUAL(spelled(bits.parsed("0110", "passcode")), "-1 1 1 -1 ");
  CHECK_THROWS(UsageError, "passcode has 4 bits, not 3", bits.parsed("011", "passcode"));
  CHECK_THROWS(UsageError, "passcode takes 4 digits 0 or 1; '' is none of that", bits.parsed("", "passcode"));
  const Code attributes{"bits", {0, 0}, 0, 1, {"Young", "Male"}};
  CHECK_EQUAL(spelled(attributes.parsed("Male + Young", "labels")), "1 1 ");

  const Code vector{"vector", {0.5, 0.5}, -1, 1, {"mood", "hue"}};
  CHECK_EQUAL(spelled(vector.parsed("0.25", "z")), "0.25 0.25 ");
  CHECK_EQUAL(spelled(vector.parsed("0.25,-1e-1", "z")), "0.25 -0.1 ");
  CHECK_EQUAL(spelled(vector.parsed("hue = 1", "z")), "0.5 1 ");
  CHECK_EQUAL(spelled(vector.parsed("random:7", "z")), "-0.919913 -0.549031 ");
  CHECK_THROWS(UsageError, "z: number 0 of the code is 2, outside -1 to 1", vector.parsed("2", "z"));
  CHECK_THROWS(UsageError, "z: 'nan' is no number", vector.parsed("nan", "z"));
  CHECK_THROWS(UsageError, "z has 2 numbers, not 3", vector.parsed("0,0,0", "z"));
  CHECK_THROWS(UsageError, "z: '-1' is no seed", vector.parsed("random:-1", "z"));

  CHECK_EQUAL(spelled(genedge::passcode_bits("Grüße 1", 20)), "01101000111000010001");
  CHECK_EQUAL(genedge::passcode_bits("x", 300).size(), 300u);
  CHECK(genedge::passcode_bits("x", 16) != genedge::passcode_bits("x ", 16));
  CHECK_THROWS(UsageError, "the passcode is empty", genedge::passcode_bits("", 16));
  CHECK_THROWS(UsageError, "NFC", genedge::passcode_bits("e\xCC\x81", 16));  // e and a combining accent
  return result();
}
