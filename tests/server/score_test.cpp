// Scoring by text: what Score says of texts is what a tree of the same texts says.
#include <cmath>
#include <string>
#include <vector>

#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

const std::vector<std::string> kTokenizers = {"sp_bpe/tokenizer.model", "byte_level/tokenizer.json",
                                              "bpe_prepend/tokenizer.json"};
const std::string kPrompt = "the quick brown fox jumps over";
const std::vector<std::string> kTexts = {" the lazy dog", "the lazy dog", " the lazy", " ok", "ok", "</s>"};

v1::GenerateRequest TreeOf(bool parse_special) {
  v1::GenerateRequest request;
  v1::TreeNode& root = *request.add_nodes();
  root.set_id("prompt");
  root.mutable_given()->set_text(kPrompt);
  root.mutable_given()->set_parse_special(parse_special);
  for (const std::string& text : kTexts) {
    v1::TreeNode& node = *request.add_nodes();
    node.set_id("'" + text + "'");
    node.set_parent_id("prompt");
    node.mutable_given()->set_text(text);
    node.mutable_given()->set_parse_special(parse_special);
    node.mutable_given()->set_score(true);
  }
  return request;
}

v1::ScoreResponse Score(TestServer& server, const v1::ScoreRequest& request) {
  grpc::ClientContext context;
  v1::ScoreResponse response;
  const grpc::Status status = server.trees().Score(&context, request, &response);
  INFO(status.error_message());
  REQUIRE(status.ok());
  return response;
}

std::vector<int32_t> Tokenize(TestServer& server, const std::string& text, bool continues, bool add_bos) {
  grpc::ClientContext context;
  v1::TokenizeRequest request;
  request.set_text(text);
  request.set_continues(continues);
  request.set_add_bos(add_bos);
  v1::TokenizeResponse response;
  REQUIRE(server.models().Tokenize(&context, request, &response).ok());
  return {response.token_ids().begin(), response.token_ids().end()};
}

TEST_CASE("scores of texts are the verdicts of a tree of the same texts") {
  for (const std::string& tokenizer : kTokenizers) {
    for (const bool parse_special : {false, true}) {
      CAPTURE(tokenizer, parse_special);
      TestServer server({.tokenizer = tokenizer});
      const Generated tree = Generate(server.trees(), TreeOf(parse_special));
      REQUIRE(tree.status.ok());
      v1::ScoreRequest request;
      request.set_prompt_text(kPrompt);
      request.set_parse_special(parse_special);
      for (const std::string& text : kTexts) request.add_continuation_texts(text);
      const v1::ScoreResponse response = Score(server, request);
      REQUIRE(response.scores_size() == static_cast<int>(kTexts.size()));
      for (int i = 0; i < response.scores_size(); ++i) {
        const v1::Branch& branch = tree.finished().branches(i);
        CHECK(response.scores(i).sum_logprob() == branch.verdict());
        CHECK(std::vector(response.scores(i).token_ids().begin(), response.scores(i).token_ids().end()) ==
              std::vector(branch.token_ids().begin(), branch.token_ids().end()));
      }
      CHECK(response.usage().distinct_tokens() == tree.finished().usage().distinct_tokens());
      CHECK(tree.finished().usage().computed_tokens() == tree.finished().usage().distinct_tokens());
      server.WaitUntilIdle();
    }
  }
}

TEST_CASE("a text that continues another is tokenized as continuations of Score are") {
  for (const std::string& tokenizer : kTokenizers) {
    CAPTURE(tokenizer);
    TestServer server({.tokenizer = tokenizer});
    v1::ScoreRequest request;
    request.mutable_prompt()->add_ids(5);
    for (const std::string& text : kTexts) request.add_continuation_texts(text);
    const v1::ScoreResponse response = Score(server, request);
    for (int i = 0; i < response.scores_size(); ++i) {
      const auto ids = Tokenize(server, kTexts[static_cast<size_t>(i)], true, false);
      CHECK(ids == std::vector(response.scores(i).token_ids().begin(), response.scores(i).token_ids().end()));
    }
  }
  TestServer server;
  CHECK(Tokenize(server, "the fox", true, false) != Tokenize(server, "the fox", false, false));
  grpc::ClientContext context;
  v1::TokenizeRequest both;
  both.set_text("x");
  both.set_continues(true);
  both.set_add_bos(true);
  v1::TokenizeResponse response;
  const grpc::Status status = server.models().Tokenize(&context, both, &response);
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(status.error_message().rfind("add_bos: ", 0) == 0);
}

TEST_CASE("the start carries the prompt's tokens and the end log-probabilities, where asked for") {
  TestServer server;
  v1::GenerateRequest request = TreeOf(false);
  v1::TreeNode& node = *request.add_nodes();
  node.set_id("on");
  node.set_parent_id("prompt");
  node.mutable_generate()->set_max_new_tokens(5);
  for (const bool asked : {false, true}) {
    request.set_return_prompt_ids(asked);
    request.set_return_logprobs(asked);
    const Generated result = Generate(server.trees(), request);
    REQUIRE(result.status.ok());
    const v1::Started& started = result.events.front().started();
    const std::vector<int32_t> prompt(started.prompt_token_ids().begin(), started.prompt_token_ids().end());
    CHECK(prompt == (asked ? Tokenize(server, kPrompt, false, true) : std::vector<int32_t>{}));
    for (const v1::Branch& branch : result.finished().branches()) {
      const bool scored = branch.node_path(1) != "on";
      CHECK(branch.has_verdict() == scored);
      CHECK(branch.logprobs_size() == (asked ? branch.token_ids_size() : 0));
      if (!asked) continue;
      double sum = 0.0;
      for (const float logprob : branch.logprobs()) sum += logprob;
      CHECK(sum == (scored ? branch.verdict() : branch.sum_logprob()));
    }
  }
}

}  // namespace
}  // namespace espalier::test
