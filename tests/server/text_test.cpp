#include "server/console/text.h"

#include <clocale>

#include "tests/support/catch.h"

namespace espalier::cli {
namespace {

struct Utf8 {
  Utf8() { std::setlocale(LC_CTYPE, "C.UTF-8"); }
};

TEST_CASE_METHOD(Utf8,
                 "width counts columns: wide characters two, marks none, emoji as wide as they can be") {
  CHECK(DisplayWidth("abc") == 3);
  CHECK(DisplayWidth("漢字") == 4);
  CHECK(DisplayWidth("한국") == 4);
  CHECK(DisplayWidth("e\u0301a\u0308\u0323") == 2);  // e with acute; a with diaeresis and a dot below
  CHECK(DisplayWidth("🙂") == 2);
  CHECK(DisplayWidth("👍🏽") == 4);  // one picture or two
  CHECK(DisplayWidth("👩‍👩‍👧") == 6);
  CHECK(DisplayWidth("🇩🇪🇫🇷") == 4);
  CHECK(DisplayWidth("❤️") == 2);
  CHECK(DisplayWidth("a\u200db") == 2);  // a joiner between letters joins nothing
  CHECK(DisplayWidth("●├─…⏎★✗") == 7);
  CHECK(DisplayWidth("\xff\xfe") == 2);  // not UTF-8: as the two replacement characters it becomes
}

TEST_CASE_METHOD(Utf8, "cutting keeps what is seen as one character whole, and within the columns") {
  CHECK(Fit("abcdef", 6) == "abcdef");
  CHECK(Fit("abcdef", 5) == "abcd…");
  CHECK(Fit("漢字漢字", 6) == "漢字…");
  CHECK(Fit("漢字漢字", 7) == "漢字漢…");
  CHECK(Fit("ae\u0301bc", 3) == "ae\u0301…");
  CHECK(Fit("👍🏽👍🏽x🇩🇪", 8) == "👍🏽…");
  CHECK(Fit("🇩🇪🇩🇪x", 4) == "🇩🇪…");
  CHECK(FitEnd("abcdef", 6) == "abcdef");
  CHECK(FitEnd("abcdef", 5) == "…cdef");
  CHECK(FitEnd("漢字漢字", 6) == "…漢字");
  CHECK(FitEnd("x👩‍👩‍👧y", 3) == "…y");
  const std::string mixed = "a漢é👍🏽🇩🇪b e\u0301 字";
  for (int columns = 1; columns < 20; ++columns) {
    CHECK(DisplayWidth(Fit(mixed, columns)) <= columns);
    CHECK(DisplayWidth(FitEnd(mixed, columns)) <= columns);
  }
}

TEST_CASE_METHOD(Utf8, "nothing that a model writes can steer the terminal") {
  CHECK(Printable("a\nb\tc") == "a⏎b⇥c");
  CHECK(Printable("\x1b[2J\x07\x7f") == "�[2J��");
  CHECK(Printable("\xc2\x9b!") == "�!");
  CHECK(Printable("a\u202eb\u2066c\u200f") == "a�b�c�");
  CHECK(Printable("a\u2028b") == "a⏎b");
  CHECK(Printable("\xffok") == "�ok");
  CHECK(Printable("größe 漢字 👩‍👩‍👧") == "größe 漢字 👩‍👩‍👧");
}

TEST_CASE_METHOD(Utf8, "lines stay lines where they may, and nothing else gets through") {
  CHECK(PrintableLines("a\nb\tc\r\x1b[2J\u2028d") == "a\nb\tc��[2J⏎d");
}

TEST_CASE_METHOD(Utf8, "what a log shows says which characters were meant") {
  CHECK(Escaped("a\nb\tc\rd") == "a\\nb\\tc\\rd");
  CHECK(Escaped(std::string_view("\x1b[2J\x07\x7f\0", 7)) == "\\x1b[2J\\x07\\x7f\\x00");
  CHECK(Escaped("\u009b\u202e\u2028") == "\\u009b\\u202e\\u2028");
  CHECK(Escaped("\xff\xe0\x80\x80\xed\xa0\x80\xf4\x90\x80\x80") ==
        "\\xff\\xe0\\x80\\x80\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80");
  CHECK(Escaped("cut \xe6\xbc") == "cut \\xe6\\xbc");
  CHECK(Escaped("größe 漢字 �\\n") == "größe 漢字 �\\n");
}

TEST_CASE_METHOD(Utf8, "wrapping breaks at spaces, and inside words that are too long") {
  using Lines = std::vector<std::string>;
  CHECK(Wrap("one two three", 7) == Lines{"one two", "three"});
  CHECK(Wrap("one two three", 8) == Lines{"one two", "three"});
  CHECK(Wrap("abcdefgh", 3) == Lines{"abc", "def", "gh"});
  CHECK(Wrap("a\nbc", 9) == Lines{"a", "bc"});
  CHECK(Wrap("", 9) == Lines{""});
  CHECK(Wrap("漢字漢字", 5) == Lines{"漢字", "漢字"});
}

TEST_CASE_METHOD(Utf8, "bars are as wide as asked, and full only when all is there") {
  CHECK(Bar(0, 10, 4) == "░░░░");
  CHECK(Bar(10, 10, 4) == "████");
  CHECK(Bar(5, 10, 4) == "██░░");
  CHECK(Bar(0, 0, 4) == "░░░░");
  for (int part = 0; part <= 100; ++part) CHECK(DisplayWidth(Bar(part, 100, 7)) == 7);
  CHECK(Bar(99, 100, 4) != "████");
}

TEST_CASE_METHOD(Utf8, "counts and bytes are short") {
  CHECK(Count(0) == "0");
  CHECK(Count(999) == "999");
  CHECK(Count(1000) == "1.00k");
  CHECK(Count(12345) == "12.3k");
  CHECK(Count(999499) == "999k");
  CHECK(Count(4.56e6) == "4.56M");
  CHECK(Bytes(987) == "987 B");
  CHECK(Bytes(17.2e6) == "17.2 MB");
}

}  // namespace
}  // namespace espalier::cli
