#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

struct BadRequest {
  std::string field;  // the status message begins with it
  std::function<void(v1::GenerateRequest&)> spoil;
};

v1::Sampling& SamplingOf(v1::GenerateRequest& request) {
  return *request.mutable_nodes(1)->mutable_generate()->mutable_sampling();
}

v1::TreeNode& Add(v1::GenerateRequest& request, const std::string& id, const std::string& parent) {
  v1::TreeNode& node = *request.add_nodes();
  node.set_id(id);
  node.set_parent_id(parent);
  return node;
}

const std::vector<BadRequest>& BadRequests() {
  static const std::vector<BadRequest> kRequests = {
      {"nodes: ", [](auto& r) { r.clear_nodes(); }},
      {"nodes[0].parent_id", [](auto& r) { r.mutable_nodes(0)->set_parent_id("answer"); }},
      {"nodes[0].id", [](auto& r) { r.mutable_nodes(0)->clear_id(); }},
      {"nodes[1].id", [](auto& r) { r.mutable_nodes(1)->set_id("prompt"); }},
      {"nodes[1].id", [](auto& r) { r.mutable_nodes(1)->set_id(std::string(300, 'x')); }},
      {"nodes[1].parent_id", [](auto& r) { r.mutable_nodes(1)->set_parent_id("nobody"); }},
      {"nodes[1].parent_id", [](auto& r) { r.mutable_nodes(1)->set_parent_id("answer"); }},
      {"nodes[1].parent_id", [](auto& r) { r.mutable_nodes(1)->clear_parent_id(); }},
      {"nodes[2].parent_id",
       [](auto& r) {
         Add(r, "late", "later").mutable_generate();
         Add(r, "later", "late");
       }},
      {"nodes[1]", [](auto& r) { r.mutable_nodes(1)->clear_content(); }},
      {"nodes[0]", [](auto& r) { r.mutable_nodes(0)->mutable_generate(); }},
      {"nodes[0].given", [](auto& r) { r.mutable_nodes(0)->mutable_given()->clear_tokens(); }},
      {"nodes[0].given", [](auto& r) { r.mutable_nodes(0)->mutable_given()->mutable_token_ids(); }},
      {"nodes[0].given.token_ids",
       [](auto& r) { r.mutable_nodes(0)->mutable_given()->mutable_token_ids()->add_ids(1 << 20); }},
      {"nodes[0].given.token_ids",
       [](auto& r) { r.mutable_nodes(0)->mutable_given()->mutable_token_ids()->add_ids(-1); }},
      {"nodes[0].given.score", [](auto& r) { r.mutable_nodes(0)->mutable_given()->set_score(true); }},
      {"nodes[1].generate.branches",
       [](auto& r) { r.mutable_nodes(1)->mutable_generate()->set_branches(-1); }},
      {"nodes[1].generate.branches",
       [](auto& r) { r.mutable_nodes(1)->mutable_generate()->set_branches(65); }},
      {"nodes[2].generate.branches",
       [](auto& r) { Add(r, "more", "answer").mutable_generate()->set_branches(2147483647); }},
      {"nodes[1].generate.max_new_tokens",
       [](auto& r) { r.mutable_nodes(1)->mutable_generate()->set_max_new_tokens(-5); }},
      {"nodes[1].generate.max_new_tokens",
       [](auto& r) { r.mutable_nodes(1)->mutable_generate()->set_max_new_tokens(100000); }},
      {"nodes[1].generate.sampling.temperature", [](auto& r) { SamplingOf(r).set_temperature(-0.5F); }},
      {"nodes[1].generate.sampling.temperature", [](auto& r) { SamplingOf(r).set_temperature(NAN); }},
      {"nodes[1].generate.sampling.temperature", [](auto& r) { SamplingOf(r).set_temperature(101.0F); }},
      {"nodes[1].generate.sampling.top_k", [](auto& r) { SamplingOf(r).set_top_k(-1); }},
      {"nodes[1].generate.sampling.top_p", [](auto& r) { SamplingOf(r).set_top_p(0.0F); }},
      {"nodes[1].generate.sampling.top_p", [](auto& r) { SamplingOf(r).set_top_p(1.5F); }},
      {"nodes[1].generate.sampling.min_p", [](auto& r) { SamplingOf(r).set_min_p(-0.1F); }},
      {"nodes[1].generate.sampling.repetition_penalty",
       [](auto& r) { SamplingOf(r).set_repetition_penalty(0.0F); }},
      {"nodes[1].generate.sampling.presence_penalty",
       [](auto& r) { SamplingOf(r).set_presence_penalty(3.0F); }},
      {"nodes[1].generate.sampling.frequency_penalty",
       [](auto& r) { SamplingOf(r).set_frequency_penalty(INFINITY); }},
      {"nodes[1].generate.sampling.logit_bias[0]",
       [](auto& r) { SamplingOf(r).add_logit_bias()->set_token_id(-7); }},
      {"nodes[1].generate.stop_strings[0]",
       [](auto& r) { r.mutable_nodes(1)->mutable_generate()->add_stop_strings(""); }},
      {"nodes[1].generate.stop_token_ids[0]",
       [](auto& r) { r.mutable_nodes(1)->mutable_generate()->add_stop_token_ids(1 << 20); }},
      {"nodes[1].generate.top_logprobs",
       [](auto& r) { r.mutable_nodes(1)->mutable_generate()->set_top_logprobs(21); }},
      {"nodes[2].select.keep",
       [](auto& r) { Add(r, "best", "answer").mutable_select()->set_score(v1::SELECT_SCORE_SUM_LOGPROB); }},
      {"nodes[2].select.score", [](auto& r) { Add(r, "best", "answer").mutable_select()->set_keep(1); }},
      {"nodes[2].select.score",
       [](auto& r) {
         v1::Select& select = *Add(r, "best", "answer").mutable_select();
         select.set_keep(1);
         select.set_score(v1::SELECT_SCORE_SUM_VERDICTS);
       }},
      {"cache_namespace", [](auto& r) { r.set_cache_namespace(std::string(257, 'n')); }},
  };
  return kRequests;
}

TEST_CASE("a bad request is INVALID_ARGUMENT and names the field, and the server goes on") {
  TestServer server;
  for (const BadRequest& bad : BadRequests()) {
    v1::GenerateRequest request = FewShot("a prompt", 2, 4);
    bad.spoil(request);
    const Generated result = Generate(server.trees(), request);
    INFO("expected field " << bad.field << ", got: " << result.status.error_message());
    CHECK(result.status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(result.status.error_message().rfind(bad.field, 0) == 0);
    CHECK(result.events.empty());
  }
  CHECK(Generate(server.trees(), FewShot("a prompt", 2, 4)).status.ok());
  server.WaitUntilIdle();
}

TEST_CASE("a small request for a huge answer is INVALID_ARGUMENT; nothing was computed for it") {
  TestServer server({.blocks = 1024, .max_branches = 1024, .max_answer_bytes = 100 << 20});
  v1::GenerateRequest request = FewShot("a prompt", 1000, 1);
  std::string parent = "answer";
  for (int i = 0; i < 40; ++i) {
    const std::string id = std::to_string(i) + std::string(200, 'x');
    Add(request, id.c_str(), parent.c_str()).mutable_generate()->set_max_new_tokens(1);
    parent = id;
  }
  const Generated result = Generate(server.trees(), request);
  CHECK(result.status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(result.status.error_message().rfind("nodes[41].generate: the answer may take ", 0) == 0);
  v1::ScoreRequest score;
  score.set_top_logprobs(20);
  score.mutable_prompt()->add_ids(5);
  for (int i = 0; i < 1000; ++i) {
    v1::TokenIds& continuation = *score.add_continuations();
    for (int k = 0; k < 500; ++k) continuation.add_ids(5);
  }
  grpc::ClientContext context;
  v1::ScoreResponse response;
  const grpc::Status refused = server.trees().Score(&context, score, &response);
  CHECK(refused.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(refused.error_message().rfind("continuations[", 0) == 0);
  CHECK(refused.error_message().find("].ids: the answer may take ") != std::string::npos);
  CHECK(server.Stats().computed_tokens() == 0);
}

TEST_CASE("what could never fit is INVALID_ARGUMENT; nothing was computed for it") {
  TestServer server({.blocks = 4});
  const Generated result = Generate(server.trees(), FewShot("a prompt", 2, 100));
  CHECK(result.status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(result.status.error_message().rfind("nodes[1].generate.max_new_tokens", 0) == 0);
  CHECK(server.Stats().computed_tokens() == 0);
}

TEST_CASE("branches that do not fit together at a barrier take turns") {
  TestServer server({.blocks = 8});
  v1::GenerateRequest request = FewShot("a prompt", 16, 40);
  v1::Select& select = *Add(request, "best", "answer").mutable_select();
  select.set_keep(1);
  select.set_score(v1::SELECT_SCORE_SUM_LOGPROB);
  const Generated result = Generate(server.trees(), request);
  REQUIRE(result.status.ok());
  CHECK(result.finished().usage().generated_tokens() == 16 * 40);
  server.WaitUntilIdle();
}

TEST_CASE("bad Score requests name the prompt or the continuation") {
  TestServer server;
  const std::vector<std::pair<std::string, std::function<void(v1::ScoreRequest&)>>> cases = {
      {"prompt.ids", [](auto& r) { r.clear_prompt(); }},
      {"prompt.ids", [](auto& r) { r.mutable_prompt()->add_ids(-4); }},
      {"continuations: ", [](auto& r) { r.clear_continuations(); }},
      {"continuations[1].ids", [](auto& r) { r.add_continuations(); }},
      {"continuations[0].ids", [](auto& r) { r.mutable_continuations(0)->add_ids(1 << 20); }},
      {"top_logprobs", [](auto& r) { r.set_top_logprobs(-1); }},
      {"prompt_text: ", [](auto& r) { r.set_prompt_text("twice"); }},
      {"prompt_text: ", [](auto& r) { r.clear_prompt(), r.set_prompt_text(std::string(100000, 'x')); }},
      {"continuation_texts: ", [](auto& r) { r.add_continuation_texts("of two kinds"); }},
      {"continuation_texts[2]: holds no token",
       [](auto& r) {
         r.clear_continuations();
         for (const char* text : {"a", "b", "", "c"}) r.add_continuation_texts(text);
       }},
      {"continuation_texts[1]: ",
       [](auto& r) {
         r.clear_continuations();
         for (const size_t size : {1, 100000}) r.add_continuation_texts(std::string(size, 'x'));
       }},
      {"continuation_texts[1]: ",
       [](auto& r) {
         r.clear_continuations();
         r.add_continuation_texts("a");
         std::string words;  // a path of more tokens than the model holds
         for (int i = 0; i < 600; ++i) words += " fox";
         r.add_continuation_texts(words);
       }},
  };
  for (const auto& [field, spoil] : cases) {
    v1::ScoreRequest request;
    request.mutable_prompt()->add_ids(5);
    request.add_continuations()->add_ids(6);
    spoil(request);
    grpc::ClientContext context;
    v1::ScoreResponse response;
    const grpc::Status status = server.trees().Score(&context, request, &response);
    INFO("expected field " << field << ", got: " << status.error_message());
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(status.error_message().rfind(field, 0) == 0);
  }
}

TEST_CASE("text that is not UTF-8 is INVALID_ARGUMENT and named") {
  TestServer server;
  std::string encoded = FewShot("PROMPT", 2, 4).SerializeAsString();
  encoded.replace(encoded.find("PROMPT"), 6, "\xc3\x28\xff\xff\xff\xff");
  grpc::Status status = SendRaw(server.channel(), "/espalier.v1.TreeService/Generate", encoded);
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(status.error_message() == "nodes[0].given.text: not valid UTF-8");
  v1::TokenizeRequest tokenize;
  tokenize.set_text("TEXT");
  encoded = tokenize.SerializeAsString();
  encoded.replace(encoded.find("TEXT"), 4, "\xed\xa0\x80!");
  status = SendRaw(server.channel(), "/espalier.v1.ModelService/Tokenize", encoded);
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(status.error_message() == "text: not valid UTF-8");
  status = SendRaw(server.channel(), "/espalier.v1.TreeService/Score", "\x0a\x7f");
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_CASE("tokens outside the vocabulary cannot be detokenized") {
  TestServer server;
  grpc::ClientContext context;
  v1::DetokenizeRequest request;
  request.add_token_ids(5);
  request.add_token_ids(-1);
  v1::DetokenizeResponse response;
  const grpc::Status status = server.models().Detokenize(&context, request, &response);
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(status.error_message().rfind("token_ids[1]", 0) == 0);
}

}  // namespace
}  // namespace espalier::test
