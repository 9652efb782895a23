#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/mutex.h"
#include "server/console/terminal.h"

namespace espalier::cli {

// Shows on a terminal what changes, from a thread of its own: at most 15 frames a second, however fast it
// changes, and the last change is never missed. What takes less than `delay` is not shown at all. The
// terminal is given back on destruction.
class LiveView {
 public:
  using Clock = std::chrono::steady_clock;
  // Called on the view's thread, with the seconds since construction.
  using Draw = std::function<std::vector<std::string>(TerminalSize, double seconds)>;

  // A whole screen on `file`.
  static std::unique_ptr<LiveView> OnScreen(int file, Clock::duration delay, Draw draw);
  // The last of the lines drawn, as a status line on `file`.
  static std::unique_ptr<LiveView> OnLine(int file, Clock::duration delay, Draw draw);

  ~LiveView();
  LiveView(const LiveView&) = delete;
  LiveView& operator=(const LiveView&) = delete;

 private:
  LiveView(int file, bool whole_screen, Clock::duration delay, Draw draw);
  void Run();
  bool WaitFor(Clock::duration time);  // true: the end has come

  const int file_;
  const bool whole_screen_;
  const Clock::duration delay_;
  const Draw draw_;
  const Clock::time_point begin_ = Clock::now();
  Mutex mutex_;
  CondVar wake_;
  bool ended_ ESPALIER_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: runs when everything else is there
};

}  // namespace espalier::cli
