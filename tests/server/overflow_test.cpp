// What clients see where the model's arithmetic leaves fp32: FINISH_REASON_ERROR, or INTERNAL from Score.
#include <cmath>
#include <string>

#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

constexpr int32_t kOverflowToken = 40;

void AddBias(v1::TreeNode& node, float bias) {
  v1::LogitBias& entry = *node.mutable_generate()->mutable_sampling()->add_logit_bias();
  entry.set_token_id(kOverflowToken);
  entry.set_bias(bias);
}

TEST_CASE("a branch whose logits are not finite ends with an error, its siblings and others do not") {
  TestServer server({.overflow_token = kOverflowToken});
  v1::GenerateRequest request = FewShot("the quick brown fox", 3, 5);
  AddBias(*request.mutable_nodes(1), -100);
  v1::TreeNode& bad = *request.add_nodes();
  bad = request.nodes(1);
  bad.set_id("bad");
  for (int i = 0; i < 2; ++i) AddBias(bad, 100);  // samples the token at once
  v1::TreeNode& below = *request.add_nodes();
  below.set_id("below");
  below.set_parent_id("bad");
  below.mutable_generate()->set_max_new_tokens(2);
  const Generated alone = Generate(server.trees(), FewShot("the quick brown fox", 3, 5));
  const Generated result = Generate(server.trees(), request);
  REQUIRE(result.status.ok());
  REQUIRE(result.finished().branches_size() == 3 + 3 + 3);
  int errors = 0;
  for (const v1::GenerateResponse& event : result.events) {
    for (const v1::BranchDelta& branch : event.delta().branches()) {
      errors += branch.finish_reason() == v1::FINISH_REASON_ERROR ? 1 : 0;
      for (const float logprob : branch.logprobs()) CHECK(std::isfinite(logprob));
    }
  }
  CHECK(errors == 6);
  for (const v1::Branch& branch : result.finished().branches()) {
    const std::string node = branch.node_path(branch.node_path_size() - 1);
    CAPTURE(branch.branch(), node);
    CHECK(std::isfinite(branch.sum_logprob()));
    CHECK(branch.finish_reason() ==
          (node == "answer" ? v1::FINISH_REASON_MAX_TOKENS : v1::FINISH_REASON_ERROR));
    CHECK(branch.token_ids_size() == (node == "answer" ? 5 : node == "bad" ? 1 : 0));
    if (node == "bad") CHECK(branch.token_ids(0) == kOverflowToken);
  }
  REQUIRE(alone.status.ok());
  server.WaitUntilIdle();
}

TEST_CASE("Score ends with INTERNAL and the continuation whose logits are not finite") {
  TestServer server({.overflow_token = kOverflowToken});
  v1::ScoreRequest request;
  for (const int32_t id : {5, 6, 7}) request.mutable_prompt()->add_ids(id);
  for (const int32_t id : {8, 9}) request.add_continuations()->add_ids(id);
  request.mutable_continuations(1)->add_ids(kOverflowToken);  // what comes before it is finite
  v1::ScoreResponse response;
  {
    grpc::ClientContext context;
    REQUIRE(server.trees().Score(&context, request, &response).ok());
    for (const auto& score : response.scores()) CHECK(std::isfinite(score.sum_logprob()));
  }
  request.mutable_continuations(1)->add_ids(8);
  grpc::ClientContext context;
  const grpc::Status status = server.trees().Score(&context, request, &response);
  CHECK(status.error_code() == grpc::StatusCode::INTERNAL);
  CHECK(status.error_message() == "continuations[1]: the model's logits are infinite or not a number");
  server.WaitUntilIdle();
}

}  // namespace
}  // namespace espalier::test
