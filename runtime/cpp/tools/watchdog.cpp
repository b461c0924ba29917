#include "watchdog.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "live.hpp"

namespace genedge {

Watchdog::Watchdog() {
  const char* address = std::getenv("NOTIFY_SOCKET");
  if (address == nullptr || (address[0] != '/' && address[0] != '@')) return;
  address_ = address;
  if (address_.size() >= sizeof(sockaddr_un::sun_path)) return;
  socket_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

Watchdog::~Watchdog() {
  if (socket_ < 0) return;
  say("STOPPING=1");
  close(socket_);
}

void Watchdog::frame() {
  if (socket_ < 0) return;
  const double now = steady_seconds();
  if (ready_ && now - last_ < 0.5) return;
  last_ = now;
  say(ready_ ? "WATCHDOG=1" : "READY=1\nWATCHDOG=1");
  ready_ = true;
}

void Watchdog::say(const std::string& words) const {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, address_.data(), address_.size());
  if (address_[0] == '@') name.sun_path[0] = '\0';  // an abstract socket
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  // one that is lost is followed by the next
  (void)sendto(socket_, words.data(), words.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&name), length);
}

}  // namespace genedge
