#include "server/tree_codec.h"

#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier {
namespace {

std::unique_ptr<Tokenizer> TestTokenizer() {
  auto tokenizer = LoadTokenizer(test::SourceDir() / "tests/model/tokenizer/data/sp_bpe/tokenizer.model");
  REQUIRE(tokenizer.ok());
  return std::move(*tokenizer);
}

TextRules Rules(const Tokenizer& tokenizer) {
  static const std::atomic<bool> kNotCancelled{false};
  return {tokenizer, 512, kNotCancelled};
}

TEST_CASE("only the root's text begins a sequence; token ids are taken as they are") {
  const auto tokenizer = TestTokenizer();
  v1::GenerateRequest message;
  message.add_nodes()->set_id("root");
  message.mutable_nodes(0)->mutable_given()->set_text("the fox");
  v1::TreeNode& below = *message.add_nodes();
  below.set_id("below");
  below.set_parent_id("root");
  below.mutable_given()->set_text("the fox");
  v1::TreeNode& ids = *message.add_nodes();
  ids.set_id("ids");
  ids.set_parent_id("root");
  ids.mutable_given()->mutable_token_ids()->add_ids(9);

  const auto request = FromProto(message, Rules(*tokenizer), 42);
  REQUIRE(request.ok());
  CHECK(request->seed == 42);
  const auto& root_ids = std::get<GivenSpec>(request->nodes[0].content).token_ids;
  const auto& below_ids = std::get<GivenSpec>(request->nodes[1].content).token_ids;
  REQUIRE(tokenizer->bos_id() >= 0);
  CHECK(root_ids.front() == tokenizer->bos_id());
  CHECK(below_ids.front() != tokenizer->bos_id());
  CHECK(below_ids == *tokenizer->Encode("the fox", {.at_start = false}));
  CHECK(std::get<GivenSpec>(request->nodes[2].content).token_ids == std::vector<int32_t>{9});
  CHECK(request->nodes[2].parent == 0);
}

TEST_CASE("a text that no path could hold is refused before it is encoded") {
  const auto tokenizer = TestTokenizer();
  v1::GenerateRequest message;
  message.add_nodes()->set_id("root");
  message.mutable_nodes(0)->mutable_given()->set_text("the fox");
  v1::TreeNode& below = *message.add_nodes();
  below.set_id("below");
  below.set_parent_id("root");
  const size_t max = 512 * tokenizer->longest_token_bytes();
  below.mutable_given()->set_text(std::string(max, 'x'));
  const auto counted = FromProto(message, Rules(*tokenizer), 0);
  REQUIRE_FALSE(counted.ok());
  CHECK(counted.error().ToString().rfind("nodes[1].given.text: takes ", 0) == 0);
  below.mutable_given()->set_text(std::string(max + 1, 'x'));
  const auto refused = FromProto(message, Rules(*tokenizer), 0);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().field == "nodes[1].given.text");
  CHECK(refused.error().message.rfind("has " + std::to_string(max + 1) + " bytes", 0) == 0);
}

TEST_CASE("defaults of a generate directive are those that the proto states") {
  const auto tokenizer = TestTokenizer();
  v1::GenerateRequest message;
  message.add_nodes()->set_id("root");
  message.mutable_nodes(0)->mutable_given()->set_text("x");
  v1::TreeNode& node = *message.add_nodes();
  node.set_id("g");
  node.set_parent_id("root");
  node.mutable_generate();
  const auto request = FromProto(message, Rules(*tokenizer), 0);
  REQUIRE(request.ok());
  const auto& generate = std::get<GenerateSpec>(request->nodes[1].content);
  CHECK(generate.branches == 1);
  CHECK(generate.max_new_tokens == 16);
  CHECK(generate.sampling.temperature == 1.0F);
  CHECK(generate.sampling.top_p == 1.0F);
  CHECK(generate.sampling.repetition_penalty == 1.0F);
}

TEST_CASE("events carry the ids of nodes, and a branch the path of its nodes") {
  TreeRequest request;
  request.nodes = {{"root", -1, GivenSpec{{1}, false, 0}},
                   {"step", 0, GenerateSpec{}},
                   {"best", 1, SelectSpec{}},
                   {"last", 2, GenerateSpec{}}};
  const TreeEncoder encoder(request);
  TreeFinished finished;
  finished.branches.push_back(
      {.branch = 3, .parent = 1, .node = 3, .terminal = true, .token_ids = {7, 8}, .text = "t"});
  const auto message = encoder.ToProto(finished);
  const v1::Branch& branch = message.finished().branches(0);
  REQUIRE(branch.node_path_size() == 4);
  CHECK(branch.node_path(0) == "root");
  CHECK(branch.node_path(3) == "last");
  CHECK(branch.token_ids_size() == 2);
  CHECK(encoder.ToProto(TreeSelected{.node = 2, .kept = {1}, .pruned = {2}, .scores = {-1, -2}})
            .selected()
            .node_id() == "best");
}

}  // namespace
}  // namespace espalier
