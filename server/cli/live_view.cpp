#include "server/cli/live_view.h"

#include <optional>
#include <utility>

namespace espalier::cli {

LiveView::LiveView(int file, bool whole_screen, Clock::duration delay, Draw draw)
    : file_(file), whole_screen_(whole_screen), delay_(delay), draw_(std::move(draw)), thread_([this] {
        Run();
      }) {}

std::unique_ptr<LiveView> LiveView::OnScreen(int file, Clock::duration delay, Draw draw) {
  return std::unique_ptr<LiveView>(new LiveView(file, /*whole_screen=*/true, delay, std::move(draw)));
}

std::unique_ptr<LiveView> LiveView::OnLine(int file, Clock::duration delay, Draw draw) {
  return std::unique_ptr<LiveView>(new LiveView(file, /*whole_screen=*/false, delay, std::move(draw)));
}

LiveView::~LiveView() {
  {
    const MutexLock lock(mutex_);
    ended_ = true;
  }
  wake_.NotifyOne();
  thread_.join();
}

bool LiveView::WaitFor(Clock::duration time) {
  const Clock::time_point until = Clock::now() + time;
  const MutexLock lock(mutex_);
  while (!ended_ && wake_.WaitUntil(mutex_, until)) {
  }
  return ended_;
}

void LiveView::Run() {
  constexpr std::chrono::milliseconds kFrame(67);
  if (WaitFor(delay_)) return;
  std::optional<Screen> screen;
  std::optional<StatusLine> line;
  if (whole_screen_) {
    screen.emplace(file_);
  } else {
    line.emplace(file_);
  }
  do {
    const TerminalSize size = SizeOf(file_);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
    const std::vector<std::string> lines = draw_(size, seconds);
    if (screen) screen->Show(lines, size);
    if (line && !lines.empty()) line->Show(lines.back());
  } while (!WaitFor(kFrame));
}

}  // namespace espalier::cli
