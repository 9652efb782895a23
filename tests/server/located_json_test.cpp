#include "server/located_json.h"

#include "tests/support/catch.h"

namespace espalier {
namespace {

std::string At(TextPlace place) { return std::to_string(place.line) + ":" + std::to_string(place.column); }

TEST_CASE("every value and every key has its place, comments and all scripts notwithstanding") {
  const LocatedJson json(
      "// a file\n"
      "{\n"
      "  \"one\": 1, /* here */ \"zwei\\\"\": -2.5e3,\n"
      "  \"größe\": [true, null, \"a\\\\\", 7],\n"
      "  \"inner\": {\"a\": {\"b\": false}}\n"
      "}\n");
  REQUIRE(json.faults().empty());
  CHECK(json.value()["one"] == 1);
  CHECK(json.value()["inner"]["a"]["b"] == false);
  CHECK(At(json.PlaceOf("")) == "2:1");
  CHECK(At(json.KeyPlaceOf("one")) == "3:3");
  CHECK(At(json.PlaceOf("one")) == "3:10");
  CHECK(At(json.KeyPlaceOf("zwei\"")) == "3:24");
  CHECK(At(json.PlaceOf("zwei\"")) == "3:34");
  CHECK(At(json.PlaceOf("größe[0]")) == "4:13");
  CHECK(At(json.PlaceOf("größe[1]")) == "4:19");
  CHECK(At(json.PlaceOf("größe[2]")) == "4:25");
  CHECK(At(json.PlaceOf("größe[3]")) == "4:32");
  CHECK(At(json.KeyPlaceOf("inner.a.b")) == "5:19");
  CHECK(At(json.PlaceOf("inner.a.b")) == "5:24");
}

TEST_CASE("what is not there has the place of what is around it") {
  const LocatedJson json("{\"nodes\": [{\"id\": \"a\"},\n {\"id\": \"b\"}]}");
  CHECK(At(json.PlaceOf("nodes[1].generate.top_p")) == "2:2");
  CHECK(At(json.PlaceOf("nodes[7]")) == "1:11");
  CHECK(At(json.PlaceOf("seed")) == "1:1");
}

TEST_CASE("what stands behind a NUL byte is not passed over") {
  for (const std::string behind : {"", "{", "x"}) {
    const LocatedJson json("{\"a\": 1}\n " + std::string(1, '\0') + behind);
    REQUIRE(json.faults().size() == 1);
    CHECK(json.faults()[0].message == "not valid JSON: a NUL byte");
    CHECK(At(json.faults()[0].place) == "2:2");
  }
}

TEST_CASE("a number may end the document") {
  const LocatedJson json(" 12");
  REQUIRE(json.faults().empty());
  CHECK(At(json.PlaceOf("")) == "1:2");
}

TEST_CASE("a text that is no JSON is reported with the place, the line and a mark below") {
  struct Case {
    std::string text, fault;
  };
  const std::vector<Case> cases = {
      {"{\n  \"a\": 1,\n}", "3:1: not valid JSON: unexpected '}'; expected string literal\n    }\n    ^"},
      {"{\n  \"a\": 1\n  \"b\": 2\n}",
       "3:3: not valid JSON: unexpected string literal; expected ',' or '}'\n      \"b\": 2\n      ^"},
      {"{\"a\": [1 2]}",
       "1:10: not valid JSON: unexpected number literal; expected ',' or ']'\n"
       "    {\"a\": [1 2]}\n"
       "             ^"},
      {"{\"ä\": 'x'}", "1:7: not valid JSON: invalid literal\n    {\"ä\": 'x'}\n          ^"},
      {"{\"a\": 1\n\n",
       "1:8: not valid JSON: unexpected end of input; expected ',' or '}'\n    {\"a\": 1\n           ^"},
      {"{\"a\": 1e999}",
       "1:7: not valid JSON: number overflow parsing '1e999'\n    {\"a\": 1e999}\n          ^"},
      {"{\"a\": 1 false}",
       "1:9: not valid JSON: unexpected false literal; expected ',' or '}'\n"
       "    {\"a\": 1 false}\n"
       "            ^"},
      {"{\"a\": \"b\", true: 1}",
       "1:12: not valid JSON: unexpected true literal; expected string literal\n"
       "    {\"a\": \"b\", true: 1}\n"
       "               ^"},
      {"{} {}", "1:4: not valid JSON: unexpected '{'; expected end of input\n    {} {}\n       ^"},
      {"", "1:1: not valid JSON: unexpected end of input; expected '[', '{', or a literal\n    \n    ^"},
  };
  for (const Case& c : cases) {
    INFO(c.text);
    const LocatedJson json(c.text);
    REQUIRE(json.faults().size() == 1);
    CHECK(json.faults().front().In("f.json") == "f.json:" + c.fault);
  }
}

TEST_CASE("broken strings and characters are reported without printing them") {
  const LocatedJson unclosed("{\"a\":\t\"b\n\"}");
  REQUIRE(unclosed.faults().size() == 1);
  CHECK(At(unclosed.faults().front().place) == "1:9");
  CHECK(unclosed.faults().front().message.find("control character") != std::string::npos);
  CHECK(unclosed.faults().front().excerpt == "    {\"a\": \"b\n            ^");
  const LocatedJson ill_formed("{\"a\": \"\xff\"}");
  REQUIRE(ill_formed.faults().size() == 1);
  CHECK(ill_formed.faults().front().message.find("ill-formed UTF-8") != std::string::npos);
}

TEST_CASE("long lines are shown around the place") {
  const LocatedJson json("{\"a\": \"" + std::string(5000, 'x') + "\", !" + std::string(5000, 'y') + "}");
  REQUIRE(json.faults().size() == 1);
  const std::string& excerpt = json.faults().front().excerpt;
  const size_t end_of_line = excerpt.find('\n');
  CHECK(end_of_line < 120);
  CHECK(excerpt.find('^') - (end_of_line + 1) == excerpt.find('!'));
}

TEST_CASE("what stands before a fault can be read") {
  const LocatedJson json("{\"a\": 1, \"b\": }");
  REQUIRE(json.faults().size() == 1);
  CHECK(json.value() == LocatedJson::Json{{"a", 1}});
}

TEST_CASE("keys given twice and too deep nesting are faults") {
  const LocatedJson twice("{\"a\": 1,\n \"a\": 2, \"b\": {\"c\": 1, \"c\": 1}}");
  REQUIRE(twice.faults().size() == 2);
  CHECK(twice.faults()[0].In("f.json") == "f.json:2:2: a: given twice");
  CHECK(twice.faults()[1].In("f.json") == "f.json:2:24: b.c: given twice");
  const LocatedJson deep(std::string(100, '['));
  REQUIRE(deep.faults().size() == 1);
  CHECK(deep.faults().front().In("f.json") == "f.json:1:65: nested more than 64 levels deep");
  CHECK(LocatedJson(std::string(64, '[') + std::string(64, ']')).faults().empty());
}

TEST_CASE("misspelt words are recognised, others are not") {
  const std::vector<std::string> words = {"branches", "max_new_tokens", "stop_strings",
                                          "sampling", "seed",           "id"};
  CHECK(ClosestWord("branchs", words) == "branches");
  CHECK(ClosestWord("brnaches", words) == "branches");
  CHECK(ClosestWord("max_tokens", words) == "max_new_tokens");
  CHECK(ClosestWord("tokens", words) == "max_new_tokens");
  CHECK(ClosestWord("sede", words) == "seed");
  CHECK(ClosestWord("colour", words) == std::nullopt);
  CHECK(ClosestWord("x", words) == std::nullopt);
  CHECK(ClosestWord(std::string(5000, 'b'), words) == std::nullopt);
}

}  // namespace
}  // namespace espalier
