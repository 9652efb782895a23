#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace espalier::cli {

// UTF-8 text as a terminal shows it. What people see as one character (a letter with its marks, an emoji with
// its modifiers, a flag) is cut as one. Needs a UTF-8 locale (see setlocale): the widths of characters are
// its own. Of joined and toned emoji, which some terminals show as one picture and others side by side, the
// wider is counted: no line is too long on either.

// Columns that the text takes.
int DisplayWidth(std::string_view text);

// Line breaks, tabs, control characters and those that reverse the direction of writing made visible, so that
// a text stays on its line and no model writes escape codes to the terminal.
std::string Printable(std::string_view text);

// The same, but line breaks and tabs stay.
std::string PrintableLines(std::string_view text);

// The same characters as escapes that say which they were (\n, \x1b, \u202e), and bytes that are no UTF-8 as
// \xNN: for lines of a log, and for names in messages. A backslash stays one.
std::string Escaped(std::string_view text);

// The longest start of the text within `columns` (at least 1), with an ellipsis where something was cut.
std::string Fit(std::string_view text, int columns);

// The same of its end: what is growing.
std::string FitEnd(std::string_view text, int columns);

// The text in lines of at most `columns` (at least 2), broken at spaces where there are some. Line breaks of
// the text break lines too; other control characters are made visible. At least one line.
std::vector<std::string> Wrap(std::string_view text, int columns);

// `part` of `whole` as a bar of `columns` columns; nothing of nothing is an empty bar.
std::string Bar(double part, double whole, int columns);

// 17.2 MB; 987 B.
std::string Bytes(double bytes);

// 812, 12.3k, 4.56M: at most five characters.
std::string Count(double count);

}  // namespace espalier::cli
