#include "server/console/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cwchar>

namespace espalier::cli {
namespace {

struct CodePoint {
  uint32_t value = 0;
  size_t bytes = 0;
};

// The code point at `text[at]`; a byte that begins none stands for U+FFFD.
CodePoint CodePointAt(std::string_view text, size_t at) {
  constexpr CodePoint kInvalid{0xfffd, 1};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return {first, 1};
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || at + length > text.size()) return kInvalid;
  uint32_t value = first & (0x7fU >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80U) return kInvalid;
    value = value << 6U | (byte(i) & 0x3fU);
  }
  const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
  if (overlong || (value >= 0xd800 && value <= 0xdfff) || value > 0x10ffff) return kInvalid;
  return {value, length};
}

bool IsRegionalIndicator(uint32_t c) { return c >= 0x1f1e6 && c <= 0x1f1ff; }
bool IsSkinTone(uint32_t c) { return c >= 0x1f3fb && c <= 0x1f3ff; }

// 0 for marks that stand on another character. What the locale does not know takes a column, as in terminals.
int ColumnsOf(uint32_t c) {
  const int columns = ::wcwidth(static_cast<wchar_t>(c));
  return columns < 0 ? 1 : columns;
}

struct Cluster {
  size_t bytes = 0;
  int columns = 0;
};

// What is seen as one character. Unicode Standard Annex #29, without the rules of single scripts: their marks
// have no width of their own and so stay where they belong.
Cluster ClusterAt(std::string_view text, size_t at) {
  constexpr uint32_t kZeroWidthJoiner = 0x200d;
  constexpr uint32_t kEmojiPresentation = 0xfe0f;
  const CodePoint first = CodePointAt(text, at);
  Cluster cluster{first.bytes, ColumnsOf(first.value)};
  bool is_flag = false;
  for (uint32_t last = first.value; at + cluster.bytes < text.size();) {
    const CodePoint next = CodePointAt(text, at + cluster.bytes);
    const bool completes_flag =
        !is_flag && IsRegionalIndicator(last) && IsRegionalIndicator(next.value) && last == first.value;
    const bool is_joined = last == kZeroWidthJoiner && ColumnsOf(first.value) > 0 && next.value >= 0x2190;
    const bool is_toned = IsSkinTone(next.value) && first.value >= 0x261d;
    const bool is_mark = next.value >= 0x300 && ColumnsOf(next.value) == 0;
    if (!completes_flag && !is_joined && !is_toned && !is_mark) break;
    if (is_joined || is_toned) cluster.columns += ColumnsOf(next.value);
    if (completes_flag) cluster.columns = 2;
    if (next.value == kEmojiPresentation) cluster.columns = std::max(cluster.columns, 2);
    is_flag = is_flag || completes_flag;
    cluster.bytes += next.bytes;
    last = next.value;
  }
  return cluster;
}

bool IsControl(uint32_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); }
bool IsLineBreak(uint32_t c) { return c == '\n' || c == 0x2028 || c == 0x2029; }
bool IsDirection(uint32_t c) {
  return c == 0x200e || c == 0x200f || c == 0x61c || (c >= 0x202a && c <= 0x202e) ||
         (c >= 0x2066 && c <= 0x2069);
}

}  // namespace

int DisplayWidth(std::string_view text) {
  int columns = 0;
  for (size_t at = 0; at < text.size();) {
    const Cluster cluster = ClusterAt(text, at);
    at += cluster.bytes;
    columns += cluster.columns;
  }
  return columns;
}

namespace {

std::string MakePrintable(std::string_view text, bool keep_lines) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    if (keep_lines && (point.value == '\n' || point.value == '\t')) {
      out += text[at];
    } else if (IsLineBreak(point.value)) {
      out += "⏎";
    } else if (point.value == '\t') {
      out += "⇥";
    } else if (IsControl(point.value) || IsDirection(point.value) || point.value == 0xfffd) {
      out += "�";
    } else {
      out += text.substr(at, point.bytes);
    }
    at += point.bytes;
  }
  return out;
}

}  // namespace

std::string Printable(std::string_view text) { return MakePrintable(text, /*keep_lines=*/false); }

std::string PrintableLines(std::string_view text) { return MakePrintable(text, /*keep_lines=*/true); }

std::string Escaped(std::string_view text) {
  std::string out;
  std::array<char, 16> escape{};
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    const bool invalid = point.value == 0xfffd && point.bytes == 1;
    if (point.value == '\n' || point.value == '\t' || point.value == '\r') {
      out += point.value == '\n' ? "\\n" : point.value == '\t' ? "\\t" : "\\r";
    } else if (invalid || point.value < 0x20 || point.value == 0x7f) {
      std::snprintf(escape.data(), escape.size(), "\\x%02x",
                    static_cast<unsigned>(static_cast<uint8_t>(text[at])));
      out += escape.data();
    } else if (IsControl(point.value) || IsDirection(point.value) || IsLineBreak(point.value)) {
      std::snprintf(escape.data(), escape.size(), "\\u%04x", point.value);
      out += escape.data();
    } else {
      out += text.substr(at, point.bytes);
    }
    at += point.bytes;
  }
  return out;
}

std::string Fit(std::string_view text, int columns) {
  if (DisplayWidth(text) <= columns) return std::string(text);
  size_t at = 0;
  int used = 0;
  while (at < text.size()) {
    const Cluster cluster = ClusterAt(text, at);
    if (used + cluster.columns > columns - 1) break;
    at += cluster.bytes;
    used += cluster.columns;
  }
  return std::string(text.substr(0, at)) + "…";
}

std::string FitEnd(std::string_view text, int columns) {
  int excess = DisplayWidth(text) - columns;
  if (excess <= 0) return std::string(text);
  ++excess;  // for the ellipsis
  size_t at = 0;
  while (at < text.size() && excess > 0) {
    const Cluster cluster = ClusterAt(text, at);
    at += cluster.bytes;
    excess -= cluster.columns;
  }
  return "…" + std::string(text.substr(at));
}

std::vector<std::string> Wrap(std::string_view text, int columns) {
  std::vector<std::string> lines;
  while (true) {
    const size_t newline = text.find('\n');
    std::string rest = Printable(text.substr(0, newline));
    while (DisplayWidth(rest) > columns) {
      size_t end = 0;    // of what fits
      size_t space = 0;  // the last one within it, or right behind
      int used = 0;
      while (end < rest.size()) {
        const Cluster cluster = ClusterAt(rest, end);
        if (rest[end] == ' ') space = end;
        if (used + cluster.columns > columns) break;
        end += cluster.bytes;
        used += cluster.columns;
      }
      const bool at_space = space > 0;
      lines.push_back(rest.substr(0, at_space ? space : end));
      rest.erase(0, at_space ? space + 1 : end);
    }
    lines.push_back(std::move(rest));
    if (newline == std::string_view::npos) return lines;
    text.remove_prefix(newline + 1);
  }
}

std::string Bar(double part, double whole, int columns) {
  constexpr std::array<const char*, 8> kEighths = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const double share = whole > 0.0 ? std::clamp(part / whole, 0.0, 1.0) : 0.0;
  const auto eighths = static_cast<int>(share * 8.0 * columns);
  std::string bar;
  for (int i = 0; i < eighths / 8; ++i) bar += "█";
  bar += kEighths[static_cast<size_t>(eighths % 8)];
  for (int i = (eighths + 7) / 8; i < columns; ++i) bar += "░";
  return bar;
}

std::string Bytes(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KB", "MB", "GB", "TB"};
  size_t unit = 0;
  while (bytes >= 1000.0 && unit + 1 < kUnits.size()) {
    bytes /= 1000.0;
    ++unit;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
  return text.data();
}

std::string Count(double count) {
  constexpr std::array<const char*, 5> kUnits = {"", "k", "M", "G", "T"};
  size_t unit = 0;
  while (std::round(count) >= 1000.0 && unit + 1 < kUnits.size()) {
    count /= 1000.0;
    ++unit;
  }
  const int decimals = unit == 0 ? 0 : count < 9.995 ? 2 : count < 99.95 ? 1 : 0;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*f%s", decimals, count, kUnits[unit]);
  return text.data();
}

}  // namespace espalier::cli
