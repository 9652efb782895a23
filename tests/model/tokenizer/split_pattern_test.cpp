#include "model/tokenizer/split_pattern.h"

#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace espalier {
namespace {

using Words = std::vector<std::string>;

constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

SplitPattern Compile(std::string_view pattern) {
  auto compiled = SplitPattern::Compile(pattern);
  if (!compiled) FAIL(compiled.error().ToString());
  return std::move(*compiled);
}

Words Split(const SplitPattern& pattern, const std::string& text) {
  std::vector<std::string_view> words;
  REQUIRE(pattern.Split(text, &words).ok());
  return Words(words.begin(), words.end());
}

std::string ErrorOf(std::string_view pattern) {
  const auto compiled = SplitPattern::Compile(pattern);
  return compiled.ok() ? "" : compiled.error().message;
}

TEST_CASE("Llama 3's pattern cuts contractions, words, three digits and white space", "[tokenizer]") {
  const SplitPattern pattern = Compile(kLlama3);
  CHECK(Split(pattern, "She'LL say it's 12345!") ==
        Words{"She", "'LL", " say", " it", "'s", " ", "123", "45", "!"});
  CHECK(Split(pattern, "a   b\n\n  c ") == Words{"a", "  ", " b", "\n\n", " ", " c", " "});
  CHECK(Split(pattern, "x!!\r\n\ty") == Words{"x", "!!\r\n", "\ty"});
  CHECK(Split(pattern, "Äste,枝٣") == Words{"Äste", ",枝", "٣"});
  CHECK(Split(pattern, "").empty());
}

TEST_CASE("GPT-2's pattern keeps digits together and the case of contractions", "[tokenizer]") {
  const SplitPattern pattern = Compile(SplitPattern::kGpt2);
  CHECK(Split(pattern, "it's 12345 it'S") == Words{"it", "'s", " 12345", " it", "'", "S"});
}

TEST_CASE("letters, numbers and white space are those of Unicode 16", "[tokenizer]") {
  const SplitPattern pattern = Compile(kLlama3);
  // U+31350 (Unicode 15), U+2EBF0 (15.1) and U+105C0 (16) are letters, U+1E4F0 (15) is a number.
  CHECK(Split(pattern, "a\U00031350\U0002EBF0\U000105C0\U0001E4F0\U0001E4F0!") ==
        Words{"a\U00031350\U0002EBF0\U000105C0", "\U0001E4F0\U0001E4F0", "!"});
  // U+180E is no white space, U+0085 is.
  CHECK(Split(pattern, "!\u180E!") == Words{"!\u180E!"});
  CHECK(Split(pattern, "!\u0085!") == Words{"!", "\u0085", "!"});
}

TEST_CASE("what lies between matches is a word too", "[tokenizer]") {
  CHECK(Split(Compile("b+"), "abba") == Words{"a", "bb", "a"});
  CHECK(Split(Compile("(a)(b)?"), "xab") == Words{"x", "ab"});
}

TEST_CASE("patterns that the libraries read differently are refused", "[tokenizer]") {
  for (const std::string part :
       {"\\h", "\\b", "\\R", "\\1", "\\p{Mn}", "\\p{Cn}", "\\p{Han}", "\\P{Mc}", "(*", "&&"}) {
    INFO(part);
    CHECK(ErrorOf(part == "&&"   ? "[a&&b]"
                  : part == "(*" ? "(*ACCEPT)"
                                 : "a" + part) == "\"" + part + "\" is not supported");
  }
  CHECK(ErrorOf("[\\W]") == "\"\\W within a set\" is not supported");
  CHECK(ErrorOf("[\\P{L}]") == "\"\\P{L} within a set\" is not supported");
  CHECK(ErrorOf("\\pL") == "\"\\p\" is not supported");
  CHECK(ErrorOf("(?<=a)b") == "\"(?<\" is not supported");
  CHECK(ErrorOf("(?P<x>a)") == "\"(?P\" is not supported");
  CHECK(ErrorOf("[[:alpha:]]") == "\"[ within a set\" is not supported");
  CHECK(ErrorOf("[]a]") == "\"[]\" is not supported");
  CHECK(ErrorOf("a{,3}") == "\"{\" is not supported");
  CHECK(ErrorOf("a{2}+") == "\"}+\" is not supported");
  CHECK(ErrorOf("a\\") == "\"\\ at the end\" is not supported");
  CHECK(ErrorOf("a*") == "a pattern that matches the empty text is not supported");
  CHECK(ErrorOf("") == "is empty");
  CHECK(ErrorOf("(a").starts_with("is no valid pattern: "));
  CHECK(ErrorOf("[a").starts_with("is no valid pattern: "));
  CHECK(ErrorOf("\\p{").starts_with("\""));
}

TEST_CASE("lines have ends", "[tokenizer]") {
  CHECK(Split(Compile("^ "), " a\n b c") == Words{" ", "a\n", " ", "b c"});
  CHECK(Split(Compile("b$"), "b ab\nb") == Words{"b a", "b", "\n", "b"});
}

TEST_CASE("DeepSeek's pattern for the end of a line takes linear time", "[tokenizer]") {
  const SplitPattern pattern = Compile("\\s+$");
  CHECK(Split(pattern, "a  \n  b \n\n c  ") == Words{"a", "  ", "\n  b", " \n", "\n c", "  "});
  std::vector<std::string_view> words;
  const std::string text = std::string(size_t{1} << 22, ' ') + "x";
  REQUIRE(pattern.Split(text, &words).ok());
  CHECK(words.size() == 1);
}

TEST_CASE("a word character of Rust is no digit of Latin-1 that Oniguruma takes for one", "[tokenizer]") {
  CHECK(Split(Compile("\\w+"), "a²_-") == Words{"a²_", "-"});
  CHECK(Split(Compile("[\\w]+"), "a²_-") == Words{"a", "²", "_", "-"});
  for (const std::string word : {"a", "_", "枝", "\u0301", "\u200D", "٣"}) CHECK(IsWordCharacter(word));
  for (const std::string other : {" ", "-", "²", "½", "…"}) CHECK(!IsWordCharacter(other));
}

TEST_CASE("a pattern that tries every way to match is an error, not a long wait", "[tokenizer]") {
  const SplitPattern pattern = Compile("(?:a+)+[bc]");
  std::vector<std::string_view> words;
  const Status split = pattern.Split(std::string(100, 'a'), &words);
  REQUIRE(!split.ok());
  CHECK(split.error().code == ErrorCode::kInvalidArgument);
  CHECK(split.error().field == "text");
  CHECK(split.error().message.starts_with("cannot be split into words after byte 0: "));
}

}  // namespace
}  // namespace espalier
