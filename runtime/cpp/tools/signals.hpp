// Ctrl-C and SIGTERM end a run with a finished file.
#pragma once

#include <atomic>

namespace genedge {

/// How often the user has asked to stop, once `catch_signals` was called. The third time ends the process at once.
extern std::atomic<int> interrupts;

void catch_signals();

}  // namespace genedge
