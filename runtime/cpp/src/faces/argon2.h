// Argon2id (RFC 9106), for passcodes: neither JetPack's OpenSSL nor any library that it surely has knows it.
#pragma once

#include <string>

namespace genedge::faces {

// What one guess costs: `memory` in KiB, at least 8 a lane; `passes` over it; `lanes`. The defaults are the second
// recommended option of RFC 9106, section 4.
struct Cost {
  unsigned memory = 1 << 16;
  unsigned passes = 3;
  unsigned lanes = 4;
};

// 32 bytes. `salt`: at least 8 bytes. `secret` and `data` are the RFC's optional K and X.
std::string argon2id(const std::string& passcode, const std::string& salt, const Cost& cost = {},
                     const std::string& secret = "", const std::string& data = "");

}  // namespace genedge::faces
