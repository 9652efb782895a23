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

TEST_CASE("a number may end the document") {
  const LocatedJson json(" 12");
  REQUIRE(json.faults().empty());
  CHECK(At(json.PlaceOf("")) == "1:2");
}

TEST_CASE("faults tell where and why") {
  const auto fault_of = [](const std::string& text) {
    const LocatedJson json(text);
    REQUIRE(json.faults().size() == 1);
    return json.faults().front().In("f.json");
  };
  CHECK(fault_of("{\n  \"a\": 1,\n  \"b\" 2\n}").rfind("f.json:3:7: not valid JSON: ", 0) == 0);
  CHECK(fault_of("").rfind("f.json:1:1: not valid JSON: ", 0) == 0);
  CHECK(fault_of("[1, 2").rfind("f.json:1:6: not valid JSON: ", 0) == 0);
  CHECK(fault_of("{\"a\": 1,\n \"a\": 2}") == "f.json:2:2: a: given twice");
  CHECK(fault_of(std::string(100, '[')).find(":1:65: nested more than 64 levels deep") != std::string::npos);
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
