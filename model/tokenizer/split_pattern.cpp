#include "model/tokenizer/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <span>

namespace espalier {
namespace {

struct Range {
  uint32_t first;
  uint32_t last;
};

// Letters and numbers of Unicode 15 to 16, which PCRE2 10.42 (Unicode 14) does not know.
constexpr Range kNewLetters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
    {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x1123F, 0x11240}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3},
    {0x11BC0, 0x11BE0}, {0x11F02, 0x11F02}, {0x11F04, 0x11F10}, {0x11F12, 0x11F33}, {0x1342F, 0x1342F},
    {0x13441, 0x13446}, {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF},
    {0x1B132, 0x1B132}, {0x1B155, 0x1B155}, {0x1DF25, 0x1DF2A}, {0x1E030, 0x1E06D}, {0x1E4D0, 0x1E4EB},
    {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0}, {0x2B739, 0x2B739}, {0x2EBF0, 0x2EE5D}, {0x31350, 0x323AF}};
constexpr Range kNewNumbers[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x11F50, 0x11F59}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1D2C0, 0x1D2D3}, {0x1E4F0, 0x1E4F9}, {0x1E5F1, 0x1E5FA}};

void AppendSet(std::string_view property, std::span<const Range> added, std::string* out) {
  out->append(property);
  for (const Range& range : added) {
    char text[32];
    std::snprintf(text, sizeof text, "\\x{%X}-\\x{%X}", range.first, range.last);
    out->append(text);
  }
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsAlphanumeric(char c) { return IsDigit(c) || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }
bool IsAscii(char c) { return static_cast<uint8_t>(c) < 0x80; }

// A pattern of Oniguruma written for PCRE2.
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
      case '^':
      case '$':
        return Refuse(rest_.substr(0, 1));
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
    if (c == 'p') return ReadProperty();
    // PCRE2's own \s holds U+180E, which is no white space any more.
    if (c == 's' || c == 'S') {
      out_ += c == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
      rest_.remove_prefix(2);
      return {};
    }
    const bool control = c == 'r' || c == 'n' || c == 't';
    if (!control && (IsAlphanumeric(c) || !IsAscii(c))) return Refuse(rest_.substr(0, IsAscii(c) ? 2 : 1));
    Take(2);
    return {};
  }

  Status ReadProperty() {
    const bool letters = rest_.starts_with("\\p{L}");
    if (!letters && !rest_.starts_with("\\p{N}")) return Refuse(rest_.substr(0, rest_.find('}') + 1));
    if (!in_set_) out_ += '[';
    if (letters) {
      AppendSet("\\p{L}", kNewLetters, &out_);
    } else {
      AppendSet("\\p{N}", kNewNumbers, &out_);
    }
    if (!in_set_) out_ += ']';
    rest_.remove_prefix(5);
    return {};
  }

  std::string_view rest_;
  std::string out_;
  bool in_set_ = false;
};

std::string MessageOf(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// Frees what a PCRE2 function made.
template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* made) const {
    kFree(made);
  }
};
using CodePtr = std::unique_ptr<pcre2_code, Free<&pcre2_code_free>>;
using CompileContextPtr = std::unique_ptr<pcre2_compile_context, Free<&pcre2_compile_context_free>>;
using MatchContextPtr = std::unique_ptr<pcre2_match_context, Free<&pcre2_match_context_free>>;
using MatchDataPtr = std::unique_ptr<pcre2_match_data, Free<&pcre2_match_data_free>>;

// Llama 3's pattern takes at most a few steps for each character of one match.
constexpr uint32_t kStepsPerByte = 16;
constexpr uint32_t kMinSteps = 10000;

}  // namespace

struct SplitPattern::Code {
  CodePtr code;
};

Result<SplitPattern> SplitPattern::Compile(std::string_view pattern) {
  if (pattern.empty()) return InvalidArgument("", "is empty");
  const auto translated = Translator(pattern).Run();
  if (!translated) return translated.error();
  const CompileContextPtr context(pcre2_compile_context_create(nullptr));
  ESPALIER_CHECK(context != nullptr);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  CodePtr code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                             PCRE2_UTF | PCRE2_UCP, &error, &offset, context.get()));
  if (code == nullptr) return InvalidArgument("", "is no valid pattern: " + MessageOf(error));
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0)
    return InvalidArgument("", "a pattern that matches the empty text is not supported");
  // Where memory may not be made executable the pattern is interpreted, with the same result.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return SplitPattern(std::make_shared<const Code>(Code{std::move(code)}));
}

Status SplitPattern::Split(std::string_view text, std::vector<std::string_view>* words) const {
  const pcre2_code* code = code_->code.get();
  const MatchDataPtr match(pcre2_match_data_create(1, nullptr));
  const MatchContextPtr context(pcre2_match_context_create(nullptr));
  ESPALIER_CHECK(match != nullptr && context != nullptr);
  const uint64_t steps = kMinSteps + uint64_t{kStepsPerByte} * text.size();
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min<uint64_t>(steps, UINT32_MAX)));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
  size_t done = 0;
  const auto add_until = [&](size_t end) {
    if (done < end) words->push_back(text.substr(done, end - done));
    done = end;
  };
  while (done < text.size()) {
    // Each call would check all of the rest again that it is UTF-8: quadratic, and Encode has done it.
    const auto search = [&](uint32_t options) {
      return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), done,
                         options | PCRE2_NO_UTF_CHECK, match.get(), context.get());
    };
    int found = search(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = search(PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) break;
    // Groups that do not fit into the match data make it 0, which is a match as well.
    if (found < 0) {
      return InvalidArgument(
          "text", "cannot be split into words after byte " + std::to_string(done) + ": " + MessageOf(found));
    }
    add_until(bounds[0]);
    add_until(bounds[1]);
  }
  add_until(text.size());
  return {};
}

}  // namespace espalier
