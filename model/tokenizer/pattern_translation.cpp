#include "model/tokenizer/pattern_translation.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>

#include "model/tokenizer/unicode_additions.h"

namespace espalier {
namespace {

// Left out: C and Cn, which shrink with each version, and Mn and Mc, between which a character has moved.
constexpr std::array<std::string_view, 29> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd",
    "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};

// The characters added to a category, as ranges of a set.
std::string AddedMembers(std::string_view category) {
  std::string out;
  for (const AddedCharacters& added : kAddedSinceUnicode14) {
    if (!added.category.starts_with(category)) continue;
    char text[32];
    std::snprintf(text, sizeof text, "\\x{%X}-\\x{%X}", static_cast<unsigned>(added.first),
                  static_cast<unsigned>(added.last));
    out += text;
  }
  return out;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsAlphanumeric(char c) { return IsDigit(c) || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }
bool IsAscii(char c) { return static_cast<uint8_t>(c) < 0x80; }

class Translator {
 public:
  explicit Translator(std::string_view pattern) : rest_(pattern) {}

  Result<std::string> Run() {
    while (!rest_.empty()) {
      if (Status read = in_set_ ? ReadInSet() : ReadOutside(); !read) return read.error();
    }
    return std::move(out_);
  }

 private:
  Error Refuse(std::string_view what) const {
    return InvalidArgument("", "\"" + std::string(what) + "\" is not supported");
  }
  void Take(size_t count) {
    out_.append(rest_.substr(0, count));
    rest_.remove_prefix(count);
  }

  Status ReadOutside() {
    switch (rest_[0]) {
      case '\\':
        return ReadEscape();
      case '[':
        in_set_ = true;
        Take(rest_.starts_with("[^") ? 2 : 1);
        return rest_.starts_with(']') ? Status(Refuse("[]")) : Status();
      case '(':
        return ReadGroup();
      case '{':
        return ReadCount();
      default:
        Take(1);
        return {};
    }
  }

  Status ReadInSet() {
    if (rest_[0] == '\\') return ReadEscape();
    if (rest_[0] == '[') return Refuse("[ within a set");
    if (rest_.starts_with("&&")) return Refuse("&&");
    if (rest_[0] == ']') in_set_ = false;
    Take(1);
    return {};
  }

  Status ReadGroup() {
    if (rest_.starts_with("(*")) return Refuse("(*");
    if (!rest_.starts_with("(?")) {
      Take(1);
      return {};
    }
    for (const std::string_view group : {"(?:", "(?i:", "(?=", "(?!"}) {
      if (!rest_.starts_with(group)) continue;
      Take(group.size());
      return {};
    }
    return Refuse(rest_.substr(0, 3));
  }

  // {2}, {2,} or {2,3}; what follows may not change its meaning, as + and ? do in different ways.
  Status ReadCount() {
    const size_t end = rest_.find('}');
    const std::string_view count = rest_.substr(0, end);
    const bool plain =
        end != std::string_view::npos && count.size() > 1 && IsDigit(count[1]) &&
        std::all_of(count.begin() + 1, count.end(), [](char c) { return IsDigit(c) || c == ','; });
    if (!plain) return Refuse("{");
    Take(end + 1);
    if (rest_.starts_with('+') || rest_.starts_with('?'))
      return Refuse("}" + std::string(rest_.substr(0, 1)));
    return {};
  }

  Status ReadEscape() {
    if (rest_.size() < 2) return Refuse("\\ at the end");
    const char c = rest_[1];
    switch (c) {
      case 'p':
      case 'P':
        return ReadProperty();
      // PCRE2's own \s holds U+180E, which is no white space any more.
      case 's':
      case 'S':
        out_ += c == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
        rest_.remove_prefix(2);
        return {};
      case 'd':
      case 'D':
        return PutMembers(2, c == 'D', CategoryMembers("Nd"));
      case 'w':
      case 'W':
        return PutMembers(2, c == 'W', WordMembers() + std::string(in_set_ ? "" : kLatinWordNumbers));
      default:
        break;
    }
    const bool control = c == 'r' || c == 'n' || c == 't';
    if (!control && (IsAlphanumeric(c) || !IsAscii(c))) return Refuse(rest_.substr(0, IsAscii(c) ? 2 : 1));
    Take(2);
    return {};
  }

  // \p{Lu}, \P{Lu} or \p{^Lu}.
  Status ReadProperty() {
    const size_t end = rest_.find('}');
    if (end == std::string_view::npos || rest_[2] != '{') return Refuse(rest_.substr(0, 2));
    std::string_view name = rest_.substr(3, end - 3);
    const bool caret = name.starts_with('^');
    if (caret) name.remove_prefix(1);
    const std::string members = CategoryMembers(name);
    if (members.empty()) return Refuse(rest_.substr(0, end + 1));
    return PutMembers(end + 1, caret != (rest_[1] == 'P'), members);
  }

  // Writes a class of `members` in the place of the next `count` bytes.
  Status PutMembers(size_t count, bool negated, const std::string& members) {
    if (in_set_ && negated) return Refuse(std::string(rest_.substr(0, count)) + " within a set");
    rest_.remove_prefix(count);
    out_ += in_set_ ? members : (negated ? "[^" : "[") + members + "]";
    return {};
  }

  std::string_view rest_;
  std::string out_;
  bool in_set_ = false;
};

}  // namespace

Result<std::string> TranslatePattern(std::string_view pattern) { return Translator(pattern).Run(); }

std::string CategoryMembers(std::string_view name) {
  if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end()) return {};
  return "\\p{" + std::string(name) + "}" + AddedMembers(name);
}

std::string WordMembers() {
  std::string members = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
  for (const std::string_view category : {"L", "M", "Nd"}) members += AddedMembers(category);
  return members;
}

}  // namespace espalier
