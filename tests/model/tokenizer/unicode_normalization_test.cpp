#include "model/tokenizer/unicode_normalization.h"

#include <string>

#include "model/tokenizer/utf8.h"
#include "tests/model/tokenizer/golden_hash.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using Form = NormalizationForm;

TEST_CASE("the forms compose, decompose and order", "[tokenizer]") {
  CHECK(NormalizeUnicode("Cafe\u0301", Form::kNfc) == "Café");
  CHECK(NormalizeUnicode("Café", Form::kNfd) == "Cafe\u0301");
  CHECK(NormalizeUnicode("ﬁ Ⅷ", Form::kNfc) == "ﬁ Ⅷ");
  CHECK(NormalizeUnicode("ﬁ Ⅷ", Form::kNfkc) == "fi VIII");
  CHECK(NormalizeUnicode("\u1E9B\u0323", Form::kNfkd) == "s\u0323\u0307");
  CHECK(NormalizeUnicode("\u1112\u1161\u11AB", Form::kNfc) == "한");
  CHECK(NormalizeUnicode("한", Form::kNfd) == "\u1112\u1161\u11AB");
  CHECK(NormalizeUnicode("a\u0301\u0323", Form::kNfd) == "a\u0323\u0301");
  CHECK(NormalizeUnicode("\u09C7\u09BE", Form::kNfc) == "\u09CB");
  CHECK(NormalizeUnicode("\u2126", Form::kNfc) == "Ω");
  CHECK(NormalizeUnicode("", Form::kNfkc).empty());
}

TEST_CASE("characters later than Unicode 9 stay as they are, as in the tokenizers package", "[tokenizer]") {
  CHECK(NormalizeUnicode("\u32FF", Form::kNfkc) == "\u32FF");
  CHECK(NormalizeUnicode("\U0001E030", Form::kNfkd) == "\U0001E030");
  CHECK(NormalizeUnicode("\U00011938", Form::kNfd) == "\U00011938");
  CHECK(NormalizeUnicode("\U00011935\U00011930", Form::kNfc) == "\U00011935\U00011930");
  CHECK(NormalizeUnicode("a\u0301\u0898", Form::kNfd) == "a\u0301\u0898");
}

TEST_CASE("lower case is taken character by character", "[tokenizer]") {
  CHECK(ToLowerCase("GRÖẞE ΣΑΣ") == "größe σασ");
  CHECK(ToLowerCase("\u0130") == "i\u0307");
  CHECK(ToLowerCase("\u1C89\uA7DC\U00010D50") == "\u1C8A\u019B\U00010D70");
}

// The tokenizers package (0.23.3) gives these for "x" and every character but surrogates, one after another.
TEST_CASE("every character is normalised as by the tokenizers package", "[tokenizer]") {
  std::string text;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    text += 'x';
    AppendUtf8(c, &text);
  }
  const auto hash = [](const std::string& out) {
    test::GoldenHash golden;
    golden.AddText(out);
    return golden.Hex();
  };
  CHECK(hash(NormalizeUnicode(text, Form::kNfd)) == "cf7446c2");
  CHECK(hash(NormalizeUnicode(text, Form::kNfkd)) == "17ea0cb3");
  CHECK(hash(NormalizeUnicode(text, Form::kNfc)) == "86581fed");
  CHECK(hash(NormalizeUnicode(text, Form::kNfkc)) == "9b013bd7");
  CHECK(hash(ToLowerCase(text)) == "270c1807");
}

// By exchanging neighbours this would be hours.
TEST_CASE("megabytes of combining characters in the wrong order are sorted", "[tokenizer]") {
  std::string text = "a";
  std::string sorted = "a";
  constexpr size_t kPairs = size_t{1} << 21;
  for (size_t i = 0; i < kPairs; ++i) text += "\u0301\u0323";
  for (size_t i = 0; i < kPairs; ++i) sorted += "\u0323";
  for (size_t i = 0; i < kPairs; ++i) sorted += "\u0301";
  CHECK((NormalizeUnicode(text, Form::kNfd) == sorted));
  CHECK(NormalizeUnicode(text, Form::kNfkc).starts_with("\u1EA1"));
}

}  // namespace
}  // namespace espalier
