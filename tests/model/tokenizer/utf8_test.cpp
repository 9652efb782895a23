#include "model/tokenizer/utf8.h"

#include <string>

#include "tests/support/catch.h"

namespace espalier {
namespace {

constexpr size_t kNone = std::string_view::npos;

TEST_CASE("every scalar value is written and read back", "[tokenizer]") {
  size_t wrong = 0;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string bytes;
    AppendUtf8(c, &bytes);
    const Utf8Char read = ReadUtf8(bytes + "x");
    const bool right =
        read.state == Utf8Char::State::kValid && read.code_point == c && read.size_bytes == bytes.size();
    wrong += right ? 0 : 1;
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      wrong += ReadUtf8(bytes.substr(0, cut)).state == Utf8Char::State::kIncomplete ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("surrogates, overlong forms and values beyond Unicode are invalid", "[tokenizer]") {
  for (const std::string bytes : {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF",
                                  "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF",
                                  "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFE", "\xFF", "\xE2\x28\xA1"}) {
    CHECK(ReadUtf8(bytes).state == Utf8Char::State::kInvalid);
    CHECK(FindInvalidUtf8("ok\xC3\xA9" + bytes) == 4);
  }
  CHECK(FindInvalidUtf8("a\xE2\x82") == 1);
  CHECK(FindInvalidUtf8("") == kNone);
  CHECK(FindInvalidUtf8(std::string("\0é\U0010FFFF", 7)) == kNone);
}

TEST_CASE("text with broken bytes reads with one replacement for each", "[tokenizer]") {
  std::string out;
  AppendLossy("a\xE2\x82z\xFF", &out);
  CHECK(out == "a\uFFFD\uFFFDz\uFFFD");
}

TEST_CASE("replacing does not look at what it has put in", "[tokenizer]") {
  CHECK(ReplaceAll("aaa", "aa", "a") == "aa");
  CHECK(ReplaceAll("a a", " ", "  ") == "a  a");
  CHECK(ReplaceAll("", "x", "y") == "");
}

TEST_CASE("a broken character is one replacement character when runs count", "[tokenizer]") {
  const auto lossy = [](std::string_view bytes) {
    std::string out;
    AppendLossyByRun(bytes, &out);
    return out;
  };
  CHECK(lossy("a\xE2\x82z\xFF") == "a\uFFFDz\uFFFD");
  CHECK(lossy("\xF0\x9F\x98") == "\uFFFD");
  CHECK(lossy("\xF0\x9F\xC3\xA9") == "\uFFFDé");
  // No character begins with these: a surrogate, an overlong form, above U+10FFFF.
  CHECK(lossy("\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(lossy("\xC0\x80") == "\uFFFD\uFFFD");
  CHECK(lossy("\xF4\x90\x80") == "\uFFFD\uFFFD\uFFFD");
}

}  // namespace
}  // namespace espalier
