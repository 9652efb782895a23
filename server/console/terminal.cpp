#include "server/console/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "kernels/base/mutex.h"
#include "server/console/text.h"
#include "server/write_all.h"

namespace espalier::cli {
namespace {

// Control sequences of ECMA-48 and xterm. Lines are not wrapped while frames are drawn; a terminal that knows
// synchronized updates shows a frame when it is complete, others ignore them.
constexpr const char* kEnter = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
constexpr const char* kLeave = "\x1b[?7h\x1b[?25h\x1b[?1049l";
constexpr const char* kBeginFrame = "\x1b[?2026h";
constexpr const char* kEndFrame = "\x1b[?2026l";
constexpr const char* kNoWrap = "\x1b[?7l";
constexpr const char* kWrap = "\x1b[?7h";

struct ScreenState {
  Mutex mutex;
  int file ESPALIER_GUARDED_BY(mutex) = -1;       // of the Screen that there is
  bool shown ESPALIER_GUARDED_BY(mutex) = false;  // entered and not left
  std::vector<std::string> lines ESPALIER_GUARDED_BY(mutex);
  TerminalSize size ESPALIER_GUARDED_BY(mutex);
};
ScreenState& State() {
  static ScreenState state;
  return state;
}

void EnterLocked(ScreenState& state) ESPALIER_REQUIRES(state.mutex) {
  WriteAll(state.file, kEnter);
  state.shown = true;
  state.lines.clear();
  state.size = {};
}

void LeaveLocked(ScreenState& state) ESPALIER_REQUIRES(state.mutex) {
  if (state.shown) WriteAll(state.file, kLeave);
  state.shown = false;
}

int NumberFromEnvironment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr) return otherwise;
  int number = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, number);
  return error == std::errc() && stop == end && number > 0 && number <= 10000 ? number : otherwise;
}

}  // namespace

bool IsTerminal(int file) {
  const char* kind = std::getenv("TERM");
  return isatty(file) == 1 && (kind == nullptr || std::strcmp(kind, "dumb") != 0);
}

TerminalSize SizeOf(int file) {
  winsize size{};
  if (ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0)
    return {size.ws_col, size.ws_row};
  return {NumberFromEnvironment("COLUMNS", 120), NumberFromEnvironment("LINES", 50)};
}

bool UseColour(const std::string& choice, int file) {
  if (choice != "auto") return choice == "always";
  const auto value_of = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string_view(value == nullptr ? "" : value);
  };
  if (!value_of("NO_COLOR").empty()) return false;
  if (const auto force = value_of("CLICOLOR_FORCE"); !force.empty() && force != "0") return true;
  return IsTerminal(file);
}

Screen::Screen(int file) {
  ScreenState& state = State();
  const MutexLock lock(state.mutex);
  state.file = file;
  EnterLocked(state);
}

Screen::~Screen() {
  ScreenState& state = State();
  const MutexLock lock(state.mutex);
  LeaveLocked(state);
  state.file = -1;
}

void Screen::Show(const std::vector<std::string>& lines, TerminalSize size) {
  ScreenState& state = State();
  const MutexLock lock(state.mutex);
  if (!state.shown) return;
  const bool resized = size.columns != state.size.columns || size.rows != state.size.rows;
  std::string frame = kBeginFrame;
  if (resized) {
    frame += "\x1b[2J";
    state.lines.clear();
  }
  const size_t rows = std::min(lines.size(), static_cast<size_t>(size.rows));
  for (size_t row = 0; row < rows; ++row) {
    if (row < state.lines.size() && state.lines[row] == lines[row]) continue;
    frame += "\x1b[" + std::to_string(row + 1) + ";1H" + lines[row] + "\x1b[K";
  }
  if (rows < state.lines.size()) frame += "\x1b[" + std::to_string(rows + 1) + ";1H\x1b[J";
  WriteAll(state.file, frame + kEndFrame);
  state.lines.assign(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(rows));
  state.size = size;
}

void Screen::Leave() {
  ScreenState& state = State();
  const MutexLock lock(state.mutex);
  LeaveLocked(state);
}

void Screen::Return() {
  ScreenState& state = State();
  const MutexLock lock(state.mutex);
  if (state.file >= 0 && !state.shown) EnterLocked(state);
}

StatusLine::~StatusLine() {
  if (shown_) WriteAll(file_, std::string("\r\x1b[K") + kWrap);
}

void StatusLine::Show(const std::string& line) {
  WriteAll(file_, std::string("\r") + kNoWrap + line + "\x1b[K");
  shown_ = true;
}

std::string TextFor(int file, const std::string& text) {
  return isatty(file) == 1 ? PrintableLines(text) : text;
}

void PrintLines(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  if (IsTerminal(STDOUT_FILENO)) all = kNoWrap + all + kWrap;
  std::fwrite(all.data(), 1, all.size(), stdout);
  std::fflush(stdout);
}

}  // namespace espalier::cli
