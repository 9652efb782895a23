#include "server/cli/tree_file.h"

#include "tests/support/catch.h"

namespace espalier::cli {
namespace {

constexpr const char* kTree = R"({
  // a comment
  "seed": "18446744073709551615",
  "nodes": [
    {"id": "a.b", "given": {"text": "x"}},
    {"id": "step", "parentId": "a.b", "generate": {"branches": 2, "sampling": {"temperature": 0.5}}},
    {"id": "best", "parent_id": "step", "select": {"keep": 1, "score": "SELECT_SCORE_SUM_LOGPROB"}}
  ]
})";

std::string Problems(const std::string& text) {
  v1::GenerateRequest request;
  std::string all;
  for (const std::string& problem : TreeFile("f", text).Read(request)) all += problem + "\n";
  return all;
}

TEST_CASE("a tree file becomes a request, in both spellings of field names") {
  v1::GenerateRequest request;
  REQUIRE(TreeFile("f", kTree).Read(request).empty());
  CHECK(request.seed() == UINT64_MAX);
  REQUIRE(request.nodes_size() == 3);
  CHECK(request.nodes(1).parent_id() == "a.b");
  CHECK(request.nodes(1).generate().sampling().temperature() == 0.5F);
}

TEST_CASE("all mistakes are listed, with their places and what was probably meant") {
  CHECK(Problems("{\"sed\": 1,\n \"nodes\": [{\"id\": 3, \"given\": {\"text\": [\"x\"]}},\n"
                 "  {\"id\": \"b\", \"generate\": {\"branchs\": 3, \"max_new_tokens\": 1.5}},\n"
                 "  {\"id\": \"c\", \"select\": {\"keep\": 5000000000, \"score\": \"SUM_LOGPROB\"}}]}") ==
        "f:1:2: no such field 'sed'; did you mean 'seed'?\n"
        "f:2:19: nodes[0].id: must be a string, got 3\n"
        "f:2:40: nodes[0].given.text: must be a string, got an array\n"
        "f:3:28: nodes[1].generate: no such field 'branchs'; did you mean 'branches'?\n"
        "f:3:60: nodes[1].generate.max_new_tokens: must be an integer, got 1.5\n"
        "f:4:34: nodes[2].select.keep: must be an integer, got 5000000000\n"
        "f:4:55: nodes[2].select.score: no such value 'SUM_LOGPROB'; did you mean "
        "'SELECT_SCORE_SUM_LOGPROB'?\n");
  CHECK(Problems("[]") == "f:1:1: must be an object, got an array\n");
  CHECK(Problems("{\"nodes\": 3}") == "f:1:11: nodes: must be an array, got 3\n");
  CHECK(Problems("{\"seed\": -1}") == "f:1:10: seed: must be an integer and not negative, got -1\n");
  CHECK(Problems("{\n \"nodes\": [}").rfind("f:2:12: not valid JSON", 0) == 0);
}

TEST_CASE("members that exclude each other are refused by name") {
  CHECK(Problems("{\"nodes\": [{\"id\": \"a\", \"given\": {\"text\": \"x\"},\n \"generate\": {}}]}") ==
        "f:2:2: nodes[0]: has given and generate; only one of given, generate or select can stand here\n");
  CHECK(Problems(
            "{\"nodes\": [{\"id\": \"a\", \"given\": {\"text\": \"x\", \"tokenIds\": {\"ids\": [1]}}}]}") ==
        "f:1:47: nodes[0].given: has text and tokenIds; only one of text or token_ids can stand here\n");
  CHECK(Problems("{\"cacheBypass\": true, \"cache_bypass\": false}") ==
        "f:1:23: has the field cache_bypass twice, as cacheBypass and as cache_bypass\n");
}

TEST_CASE("numbers that a field cannot hold are refused by name") {
  CHECK(Problems("{\"seed\": \"many\"}") == "f:1:10: seed: must be an integer in [0, 2^64), got \"many\"\n");
  CHECK(Problems("{\"nodes\": [{\"id\": \"a\", \"generate\": {\"sampling\": {\"temperature\": 1e39}}}]}") ==
        "f:1:65: nodes[0].generate.sampling.temperature: is too large for a float, got 1e+39\n");
}

TEST_CASE("a node named without a field and a missing node have different messages") {
  TreeFile file("f", kTree);
  CHECK(file.Set("step=4") == "'step' is a node: name one of its fields too, such as step.branches=4");
  CHECK(file.Set("a.b=y") == "'a.b' is a node: name one of its fields too, such as a.b.text=y");
  CHECK(file.Set("best=1") == "'best' is a node: name one of its fields too, such as best.keep=1");
}

TEST_CASE("fields of nodes can be set from outside") {
  TreeFile file("f", kTree);
  CHECK(file.Set("a.b.text=y = {z}\n").empty());
  CHECK(file.Set("step.branches=4").empty());
  CHECK(file.Set("step.sampling.top_p=0.5").empty());
  CHECK(file.Set("step.stop_strings=[\"a\", \"b\"]").empty());
  CHECK(file.Set("best.score=SELECT_SCORE_MEAN_LOGPROB").empty());
  v1::GenerateRequest request;
  REQUIRE(file.Read(request).empty());
  CHECK(request.nodes(0).given().text() == "y = {z}\n");
  CHECK(request.nodes(1).generate().branches() == 4);
  CHECK(request.nodes(1).generate().sampling().temperature() == 0.5F);
  CHECK(request.nodes(1).generate().sampling().top_p() == 0.5F);
  CHECK(request.nodes(1).generate().stop_strings_size() == 2);
  CHECK(request.nodes(2).select().score() == v1::SELECT_SCORE_MEAN_LOGPROB);
  CHECK(file.PlaceOf("nodes[1].generate.branches") == "--set step.branches");
  CHECK(file.PlaceOf("nodes[1].generate.stop_strings[1]") == "--set step.stop_strings");
  CHECK(file.PlaceOf("nodes[1].generate").starts_with("f:"));
}

TEST_CASE("setting token ids takes the place of the text") {
  TreeFile file("f", kTree);
  REQUIRE(file.Set("a.b.token_ids={\"ids\": [1, 2]}").empty());
  v1::GenerateRequest request;
  REQUIRE(file.Read(request).empty());
  CHECK(request.nodes(0).given().token_ids().ids_size() == 2);
  TreeFile other("f", "{\"nodes\": [{\"id\": \"a\", \"given\": {\"tokenIds\": {\"ids\": [1]}}}]}");
  REQUIRE(other.Set("a.text=x").empty());
  REQUIRE(other.Read(request).empty());
  CHECK(request.nodes(0).given().text() == "x");
}

TEST_CASE("what cannot be set is reported") {
  TreeFile file("f", kTree);
  const auto mentions = [&](const std::string& assignment, const std::string& words) {
    CAPTURE(assignment);
    const std::string fault = file.Set(assignment);
    CHECK(fault.find(words) != std::string::npos);
  };
  mentions("step.branches", "must be NODE.FIELD=VALUE");
  mentions("stp.branches=3", "did you mean 'step'?");
  mentions("step.branche=3", "did you mean 'branches'?");
  mentions("step.branches=many", "must be JSON");
  mentions("step.branches=1.5", "must be an integer");
  mentions("step.branches.x=1", "branches has no fields");
  mentions("best.score=BEST", "no such value 'BEST'");
  file = TreeFile("f", R"({"nodes": [{"id": "a", "given": {"text": "x"}, "generate": {}}]})");
  mentions("a.text=y", "more than one of given, generate and select");
}

TEST_CASE("fields that the server names are found in the file") {
  const TreeFile file("f", kTree);
  CHECK(file.PlaceOf("nodes[1].generate.branches") == "f:6:64");
  CHECK(file.PlaceOf("nodes[1].generate.sampling.top_p") == "f:6:79");
}

}  // namespace
}  // namespace espalier::cli
