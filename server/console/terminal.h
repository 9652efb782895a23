#pragma once

#include <string>
#include <vector>

namespace espalier::cli {

struct TerminalSize {
  int columns = 0;
  int rows = 0;
};

// A terminal that understands escape codes.
bool IsTerminal(int file);

// The terminal's own size; where the file is none, COLUMNS and LINES; else 120 by 50.
TerminalSize SizeOf(int file);

// Whether to colour what goes to a file. `choice`: always, never or auto. Auto: NO_COLOR (not empty) forbids,
// CLICOLOR_FORCE (neither empty nor 0) demands, else terminals are coloured.
bool UseColour(const std::string& choice, int file);

// The terminal's alternate screen, from construction to destruction: what stood on the terminal comes back
// untouched. Only what changed between two frames is written, in one piece, so that nothing flickers. One at
// a time; thread-safe.
class Screen {
 public:
  explicit Screen(int file);
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  // At most `size.rows` lines within `size.columns`; longer ones are cut by the terminal.
  void Show(const std::vector<std::string>& lines, TerminalSize size);

  // For what ends or stops the program: gives the terminal back at once, and takes it again.
  static void Leave();
  static void Return();
};

// A line that is drawn over and over at the end of what a terminal shows, until it is erased.
class StatusLine {
 public:
  explicit StatusLine(int file) : file_(file) {}
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;
  void Show(const std::string& line);

 private:
  int file_;
  bool shown_ = false;
};

// `text`, which another user may have written, for this file: as it is, but on a terminal without what could
// steer it. Line breaks and tabs stay.
std::string TextFor(int file, const std::string& text);

// Prints lines; on a terminal, what is too long for it is cut, not wrapped.
void PrintLines(const std::vector<std::string>& lines);

}  // namespace espalier::cli
