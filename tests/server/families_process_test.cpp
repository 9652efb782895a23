// A folder of each model family, as transformers saved it, served by the server's own program: the tokens are
// those of transformers' generate() (scripts/make_family_golden_files.py).
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "espalier/v1/tree.grpc.pb.h"
#include "tests/server/server_process.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier::test {
namespace {

nlohmann::json Cases() {
  std::ifstream file(SourceDir() / "tests/model/data/families.json");
  REQUIRE(file);
  return nlohmann::json::parse(file).at("cases");
}

// Two greedy branches below the text: one decodes next to the other.
v1::GenerateRequest Greedy(const std::string& text, int32_t tokens) {
  v1::GenerateRequest request;
  request.set_return_prompt_ids(true);
  v1::TreeNode* root = request.add_nodes();
  root->set_id("prompt");
  root->mutable_given()->set_text(text);
  v1::TreeNode* answer = request.add_nodes();
  answer->set_id("answer");
  answer->set_parent_id("prompt");
  answer->mutable_generate()->set_branches(2);
  answer->mutable_generate()->set_max_new_tokens(tokens);
  answer->mutable_generate()->mutable_sampling()->set_temperature(0.0F);
  return request;
}

void CheckServed(const nlohmann::json& expected, const std::vector<std::string>& flags) {
  const auto family = expected.at("name").get<std::string>();
  INFO(family);
  const auto generated = expected.at("generated").get<std::vector<int32_t>>();
  REQUIRE(generated.size() >= 32);
  ServerProcess server(flags, "tests/model/data/families/" + family);
  const auto trees = v1::TreeService::NewStub(server.NewChannel());
  const Generated answer = Generate(
      *trees, Greedy(expected.at("input").get<std::string>(), static_cast<int32_t>(generated.size())));
  INFO(server.Log());
  REQUIRE(answer.status.ok());
  const auto& prompt = answer.events.front().started().prompt_token_ids();
  CHECK(std::vector<int32_t>(prompt.begin(), prompt.end()) ==
        expected.at("prompt").get<std::vector<int32_t>>());
  REQUIRE(answer.finished().branches_size() == 2);
  for (const v1::Branch& branch : answer.finished().branches()) {
    CHECK(std::vector<int32_t>(branch.token_ids().begin(), branch.token_ids().end()) == generated);
    CHECK(branch.text() == expected.at("generated_text").get<std::string>());
  }
}

TEST_CASE("folders of every family that transformers saved are served with its tokens") {
  for (const nlohmann::json& expected : Cases()) {
    CheckServed(expected, {"--dtype", "float32"});
    CheckServed(expected, {"--backend", "ref", "--dtype", "float32"});
  }
}

}  // namespace
}  // namespace espalier::test
