#include "model/tokenizer/unicode_normalization.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/unicode_additions.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};

// What Unicode 10 to 14 added to the tables of decompositions and combining classes, and the second half of
// U+11938, which must not become that character again.
constexpr Range kAddedSinceUnicode9[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785},
    {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
    {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x16FF0, 0x16FF1}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

// Whether one of `ranges`, which ascend, holds `c`.
template <typename Ranges>
bool Holds(const Ranges& ranges, char32_t c) {
  const auto* after = std::upper_bound(std::begin(ranges), std::end(ranges), c,
                                       [](char32_t value, const auto& range) { return value < range.first; });
  return after != std::begin(ranges) && c <= (after - 1)->last;
}

bool IsLaterThanUnicode9(char32_t c) {
  return Holds(kAddedSinceUnicode9, c) || Holds(kAddedSinceUnicode14, c);
}

// Characters of combining class 0 that may still join the one before them.
bool MayJoinPrevious(char32_t c) {
  constexpr char32_t kJoining[] = {0x9BE,   0x9D7,   0xB3E,   0xB56,   0xB57,   0xBBE,   0xBD7,   0xCC2,
                                   0xCD5,   0xCD6,   0xD3E,   0xD57,   0xDCF,   0xDDF,   0x102E,  0x1B35,
                                   0x1133E, 0x11357, 0x114B0, 0x114BA, 0x114BD, 0x115AF, 0x11127, 0x110BA};
  if (c >= 0x1160 && c < 0x1200) return true;  // Vowels and final consonants of Hangul.
  return std::find(std::begin(kJoining), std::end(kJoining), c) != std::end(kJoining);
}

// Characters are decomposed one by one and gathered until a character comes that no earlier one can join:
// what is gathered is put in canonical order, composed, and written. The library orders by exchanging
// neighbours, which takes quadratic time, so it sees combining characters already in order.
class FormWriter {
 public:
  FormWriter(NormalizationForm form, std::string* out)
      : compose_(form == NormalizationForm::kNfc || form == NormalizationForm::kNfkc),
        compatible_(form == NormalizationForm::kNfkd || form == NormalizationForm::kNfkc),
        out_(out) {}

  void Push(char32_t c) {
    if (IsLaterThanUnicode9(c)) {
      Flush();
      AppendUtf8(c, out_);
      return;
    }
    if (c < 0x80) {
      Flush();
      gathered_.push_back({static_cast<utf8proc_int32_t>(c), 0});
      return;
    }
    std::array<utf8proc_int32_t, 32> parts{};
    const int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible_ ? UTF8PROC_COMPAT : 0);
    const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts.data(),
                                                           static_cast<utf8proc_ssize_t>(parts.size()),
                                                           static_cast<utf8proc_option_t>(options), nullptr);
    ESPALIER_CHECK(count > 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()));
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      const utf8proc_int32_t part = parts[static_cast<size_t>(i)];
      const auto combining_class = utf8proc_get_property(part)->combining_class;
      if (combining_class == 0 && !MayJoinPrevious(static_cast<char32_t>(part))) Flush();
      gathered_.push_back({part, combining_class});
    }
  }

  void Flush() {
    for (auto run = gathered_.begin(); run != gathered_.end();) {
      const auto is_starter = [](const Part& part) { return part.combining_class == 0; };
      const auto end = std::find_if(run, gathered_.end(), is_starter);
      std::stable_sort(run, end,
                       [](const Part& a, const Part& b) { return a.combining_class < b.combining_class; });
      run = end == gathered_.end() ? end : end + 1;
    }
    code_points_.clear();
    for (const Part& part : gathered_) code_points_.push_back(part.code_point);
    gathered_.clear();
    auto count = static_cast<utf8proc_ssize_t>(code_points_.size());
    if (compose_ && count > 1) {
      count = utf8proc_normalize_utf32(code_points_.data(), count,
                                       static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    }
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      AppendUtf8(static_cast<char32_t>(code_points_[static_cast<size_t>(i)]), out_);
    }
  }

 private:
  struct Part {
    utf8proc_int32_t code_point;
    utf8proc_propval_t combining_class;
  };

  const bool compose_;
  const bool compatible_;
  std::string* out_;
  std::vector<Part> gathered_;
  std::vector<utf8proc_int32_t> code_points_;
};

// Lower-case letters that the library does not know: those of Unicode 16 and 17, and the one letter that
// becomes two characters.
char32_t LaterLowerCase(char32_t c) {
  if (c >= 0x10D50 && c <= 0x10D65) return c + 0x20;
  if (c >= 0x16EA0 && c <= 0x16EB8) return c + 0x1B;
  switch (c) {
    case 0x1C89:
    case 0xA7CC:
    case 0xA7CE:
    case 0xA7D2:
    case 0xA7D4:
    case 0xA7DA:
      return c + 1;
    case 0xA7CB:
      return 0x264;
    case 0xA7DC:
      return 0x19B;
    default:
      return c;
  }
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

}  // namespace

std::string NormalizeUnicode(std::string_view text, NormalizationForm form) {
  if (IsAscii(text)) return std::string(text);
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  FormWriter writer(form, &out);
  while (!text.empty()) {
    const Utf8Char c = ReadUtf8(text);
    writer.Push(c.code_point);
    text.remove_prefix(c.size_bytes);
  }
  writer.Flush();
  return out;
}

std::string ToLowerCase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Char c = ReadUtf8(text);
    text.remove_prefix(c.size_bytes);
    if (c.code_point == 0x130) {  // "i" and a dot above.
      out += "i\xCC\x87";
      continue;
    }
    const char32_t later = LaterLowerCase(c.code_point);
    AppendUtf8(later != c.code_point
                   ? later
                   : static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code_point))),
               &out);
  }
  return out;
}

}  // namespace espalier
