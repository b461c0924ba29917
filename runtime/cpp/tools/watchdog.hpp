// Tells systemd that the run is alive: a unit with Type=notify and WatchdogSec= is restarted when frames stop coming.
#pragma once

#include <string>

namespace genedge {

/// Speaks to $NOTIFY_SOCKET, as sd_notify(3) describes; silent where there is none.
class Watchdog {
 public:
  Watchdog();
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// A frame was written: the first one says READY=1, others WATCHDOG=1, at most twice a second.
  void frame();

 private:
  void say(const std::string& words) const;

  int socket_ = -1;
  std::string address_;
  double last_ = 0;
  bool ready_ = false;
};

}  // namespace genedge
