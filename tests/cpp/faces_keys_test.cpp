// Secrets are those of the RFCs, and of runtime/faces/passcode.py.
#include <cstdio>
#include <fstream>
#include <string>

#include "check.hpp"
#include "faces/argon2.h"
#include "faces/keys.h"
#include "genedge/error.hpp"

using genedge::UsageError;
using genedge::faces::argon2id;
using genedge::faces::hmac_sha256;
using genedge::faces::RecordingKeys;

namespace {

std::string digits(const std::string& bytes) {
  std::string text;
  for (const char byte : bytes) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned char>(byte));
    text += two;
  }
  return text;
}

std::string counted(int count) {
  std::string bytes;
  for (int byte = 0; byte < count; ++byte) bytes.push_back(static_cast<char>(byte));
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  // RFC 4231, 4.2 and 4.7
  CHECK_EQUAL(digits(hmac_sha256(std::string(20, '\x0b'), "Hi There")),
              "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  CHECK_EQUAL(digits(hmac_sha256(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First")),
              "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  // RFC 9106, 5.3
  CHECK_EQUAL(digits(argon2id(std::string(32, '\1'), std::string(16, '\2'), {32, 3, 4}, std::string(8, '\3'),
                              std::string(12, '\4'))),
              "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659");
  // of Python's stretched()
  CHECK_EQUAL(digits(argon2id("a longer passcode, with a comma", "0123456789abcdef", {1000, 2, 3})),
              "50874d7d984615cc1ddfe981b657cd5f2727fa42246710c86883924c5d9bd25a");
  CHECK_THROWS(std::invalid_argument, "Argon2id", argon2id("a", "short"));

  const RecordingKeys keys(counted(32));
  CHECK_EQUAL(digits(keys.secret("number", 3, 24)), "1a52cf4be3fcb156798e2b060c112002435669e788273de4");
  CHECK_EQUAL(keys.number(3, std::uint64_t{1} << 62), std::uint64_t{240496073253535204});
  CHECK_EQUAL(keys.number(3, 24), std::uint64_t{12});
  std::string bits;
  for (const bool bit : keys.bits(7, 20)) bits += bit ? '1' : '0';
  CHECK_EQUAL(bits, "00110011101000010110");

  const auto same = RecordingKeys::from_passcode("correct horse", counted(32));
  CHECK_EQUAL(digits(same->secret("vault", 1, 32)), "dcb5ada135c9cde959111aa8549a6147a17e31cc27319a060a6112edee3c453e");
  CHECK_THROWS(UsageError, "empty", RecordingKeys::from_passcode("", counted(32)));
  CHECK_THROWS(UsageError, "NFC", RecordingKeys::from_passcode("e\xcc\x81", counted(32)));
  CHECK(RecordingKeys::random()->secret("number", 0, 24) != RecordingKeys::random()->secret("number", 0, 24));

  CHECK_EQUAL(digits(genedge::faces::recording_of(argv[1], false)), "79ed0177b9b45241c368269b6f676d029bceeb67da26eb6f02e87a3547a3741a");
  CHECK(genedge::faces::recording_of(argv[1], true) != genedge::faces::recording_of(argv[1], true));
  CHECK_THROWS(UsageError, "give a film", genedge::faces::recording_of("frames_%03d.png", false));
  return result();
}
