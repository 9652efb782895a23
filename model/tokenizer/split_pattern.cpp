#include "model/tokenizer/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>

#include "model/tokenizer/pattern_translation.h"

namespace espalier {
namespace {

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

// Punctuation of Unicode 16 that Unicode 8 does not have.
constexpr std::string_view kLaterPunctuation =
    R"(\x{61D}\x{9FD}\x{A76}\x{C77}\x{C84}\x{1B4E}-\x{1B4F}\x{1B7D}-\x{1B7F}\x{2E43}-\x{2E4F}\x{2E52}-\x{2E5D})"
    R"(\x{10D6E}\x{10EAD}\x{10F55}-\x{10F59}\x{10F86}-\x{10F89}\x{113D4}-\x{113D5}\x{113D7}-\x{113D8})"
    R"(\x{1144B}-\x{1144F}\x{1145A}-\x{1145B}\x{1145D}\x{11660}-\x{1166C}\x{116B9}\x{1183B})"
    R"(\x{11944}-\x{11946}\x{119E2}\x{11A3F}-\x{11A46}\x{11A9A}-\x{11A9C}\x{11A9E}-\x{11AA2})"
    R"(\x{11B00}-\x{11B09}\x{11BE1}\x{11C41}-\x{11C45}\x{11C70}-\x{11C71}\x{11EF7}-\x{11EF8})"
    R"(\x{11F43}-\x{11F4F}\x{11FFF}\x{12FF1}-\x{12FF2}\x{16D6D}-\x{16D6F}\x{16E97}-\x{16E9A}\x{16FE2})"
    R"(\x{1E5FF}\x{1E95E}-\x{1E95F})";

// \w of Rust's regular expressions: word characters and joiners.
std::string RustWord() { return "[" + WordMembers() + R"(\x{200C}\x{200D}])"; }

}  // namespace

struct SplitPattern::Code {
  CodePtr code;
};

Result<SplitPattern> SplitPattern::Compile(std::string_view pattern) {
  if (pattern.empty()) return InvalidArgument("", "is empty");
  // DeepSeek's pattern for white space at the end of a line. Where it fails at the start of a run of white
  // space it fails everywhere in it: said so, it takes linear time.
  if (pattern == R"(\s+$)") return CompileTranslated(R"((?:\G|(?<!\p{White_Space}))\p{White_Space}+$)");
  const auto translated = TranslatePattern(pattern);
  if (!translated) return translated.error();
  return CompileTranslated(*translated);
}

Result<SplitPattern> SplitPattern::CompileTranslated(const std::string& pattern) {
  const CompileContextPtr context(pcre2_compile_context_create(nullptr));
  ESPALIER_CHECK(context != nullptr);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  CodePtr code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context.get()));
  if (code == nullptr) return InvalidArgument("", "is no valid pattern: " + MessageOf(error));
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0)
    return InvalidArgument("", "a pattern that matches the empty text is not supported");
  // Where memory may not be made executable the pattern is interpreted, with the same result.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return SplitPattern(std::make_shared<const Code>(Code{std::move(code)}));
}

SplitPattern SplitPattern::Literal(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    // A backslash before any ASCII punctuation, and before nothing else, means the character itself.
    const bool punctuation =
        static_cast<uint8_t>(c) < 0x80 && std::ispunct(static_cast<unsigned char>(c)) != 0;
    if (punctuation) pattern += '\\';
    pattern += c;
  }
  return std::move(*CompileTranslated(pattern));
}

SplitPattern SplitPattern::Of(Class characters) {
  std::string pattern;
  switch (characters) {
    case Class::kWhiteSpace:
      pattern = R"(\p{White_Space})";
      break;
    case Class::kNumeric:
      pattern = "[" + CategoryMembers("N") + R"(\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}])";
      break;
    case Class::kPunctuation:
      // Two characters have become a symbol and a mark since.
      pattern = "(?![" + std::string(kLaterPunctuation) + R"(])[\p{P}$+<=>^`|~\x{166D}\x{111C9}])";
      break;
    case Class::kWord:
      pattern = RustWord();
      break;
  }
  return std::move(*CompileTranslated(pattern));
}

SplitPattern SplitPattern::Words() {
  const std::string word = RustWord();
  const std::string other = "[^" + word.substr(1, word.size() - 2) + R"(\p{White_Space}])";
  return std::move(*CompileTranslated(word + "+|" + other + "+"));
}

Status SplitPattern::ForEach(std::string_view text, const Visit& visit) const {
  const pcre2_code* code = code_->code.get();
  const MatchDataPtr match(pcre2_match_data_create(1, nullptr));
  const MatchContextPtr context(pcre2_match_context_create(nullptr));
  ESPALIER_CHECK(match != nullptr && context != nullptr);
  const uint64_t steps = kMinSteps + uint64_t{kStepsPerByte} * text.size();
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min<uint64_t>(steps, UINT32_MAX)));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
  size_t done = 0;
  const auto visit_until = [&](size_t end, bool is_match) {
    if (done < end) visit(text.substr(done, end - done), is_match);
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
    visit_until(bounds[0], false);
    visit_until(bounds[1], true);
  }
  visit_until(text.size(), false);
  return {};
}

Status SplitPattern::Split(std::string_view text, std::vector<std::string_view>* words) const {
  return ForEach(text, [words](std::string_view part, bool) { words->push_back(part); });
}

bool IsWordCharacter(std::string_view character) {
  static const SplitPattern word = SplitPattern::Of(SplitPattern::Class::kWord);
  bool is_word = false;
  const Status matched = word.ForEach(character, [&is_word](std::string_view, bool is) { is_word = is; });
  return matched.ok() && is_word;
}

}  // namespace espalier
