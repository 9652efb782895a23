#include "engine/tree_request.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "engine/tree_cost.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

EngineLimits Limits() {
  return {
      .max_branches = 64, .max_path_tokens = 200, .vocab_size = 100, .block_tokens = 4, .total_blocks = 49};
}

GenerateSpec Generate(int32_t branches, int32_t max_new_tokens) {
  GenerateSpec spec;
  spec.branches = branches;
  spec.max_new_tokens = max_new_tokens;
  return spec;
}

// prompt -> 4 thoughts -> verdict -> best 2 of the level -> 3 more each -> best of each group
TreeRequest GoodRequest() {
  TreeRequest request;
  request.nodes = {
      {"prompt", -1, GivenSpec{{1, 2, 3, 4, 5}}},
      {"thought", 0, Generate(4, 6)},
      {"verdict", 1, GivenSpec{{7}, true, 2}},
      {"best", 2, SelectSpec{2, SelectScore::kLatestVerdict, SelectScope::kLevel}},
      {"more", 3, Generate(3, 5)},
      {"last", 4, SelectSpec{1, SelectScore::kSumLogprob, SelectScope::kSiblings}},
  };
  return request;
}

GivenSpec& Given(TreeRequest& r, size_t i) { return std::get<GivenSpec>(r.nodes[i].content); }
GenerateSpec& Gen(TreeRequest& r, size_t i) { return std::get<GenerateSpec>(r.nodes[i].content); }
SelectSpec& Sel(TreeRequest& r, size_t i) { return std::get<SelectSpec>(r.nodes[i].content); }
SamplingParams& Sampling(TreeRequest& r) { return Gen(r, 1).sampling; }

struct BadCase {
  const char* field;
  std::function<void(TreeRequest&)> damage;
};

const std::vector<BadCase> kTopology = {
    {"nodes", [](TreeRequest& r) { r.nodes.clear(); }},
    {"nodes", [](TreeRequest& r) { r.nodes.resize(kMaxNodesPerRequest + 1); }},
    {"nodes[2].id", [](TreeRequest& r) { r.nodes[2].id.clear(); }},
    {"nodes[2].id", [](TreeRequest& r) { r.nodes[2].id = "thought"; }},
    {"nodes[2].id", [](TreeRequest& r) { r.nodes[2].id.assign(kMaxNodeIdBytes + 1, 'x'); }},
    {"nodes[2].id", [](TreeRequest& r) { r.nodes[2].id = "\xFF"; }},
    {"nodes[0].parent_id", [](TreeRequest& r) { r.nodes[0].parent = 0; }},
    {"nodes[0].given", [](TreeRequest& r) { r.nodes[0].content = Generate(1, 1); }},
    {"nodes[0].given", [](TreeRequest& r) { r.nodes[0].content = SelectSpec{}; }},
    {"nodes[2].parent_id", [](TreeRequest& r) { r.nodes[2].parent = -1; }},
    {"nodes[2].parent_id", [](TreeRequest& r) { r.nodes[2].parent = 2; }},
    {"nodes[2].parent_id", [](TreeRequest& r) { r.nodes[2].parent = 3; }},
    {"nodes[2].parent_id", [](TreeRequest& r) { r.nodes[2].parent = 77; }},
    {"nodes[3].parent_id", [](TreeRequest& r) { r.nodes[3].parent = 0; }},
    {"cache_namespace", [](TreeRequest& r) { r.cache_namespace.assign(257, 'x'); }},
};

const std::vector<BadCase> kContent = {
    {"nodes[2].given", [](TreeRequest& r) { Given(r, 2).token_ids.clear(); }},
    {"nodes[0].given.token_ids.ids[1]", [](TreeRequest& r) { Given(r, 0).token_ids[1] = 100; }},
    {"nodes[0].given.token_ids.ids[4]", [](TreeRequest& r) { Given(r, 0).token_ids[4] = -1; }},
    {"nodes[0].given.score", [](TreeRequest& r) { Given(r, 0).score = true; }},
    {"nodes[2].given.top_logprobs", [](TreeRequest& r) { Given(r, 2).top_logprobs = 21; }},
    {"nodes[2].given.top_logprobs", [](TreeRequest& r) { Given(r, 2).top_logprobs = -1; }},
    {"nodes[0].given.top_logprobs", [](TreeRequest& r) { Given(r, 0).top_logprobs = 1; }},
    {"nodes[1].generate.branches", [](TreeRequest& r) { Gen(r, 1).branches = 0; }},
    {"nodes[1].generate.branches", [](TreeRequest& r) { Gen(r, 1).branches = 65; }},
    {"nodes[1].generate.max_new_tokens", [](TreeRequest& r) { Gen(r, 1).max_new_tokens = 0; }},
    {"nodes[1].generate.max_new_tokens", [](TreeRequest& r) { Gen(r, 1).max_new_tokens = INT32_MAX; }},
    {"nodes[4].generate.top_logprobs", [](TreeRequest& r) { Gen(r, 4).top_logprobs = 21; }},
    {"nodes[1].generate.stop_token_ids[1]",
     [](TreeRequest& r) {
       Gen(r, 1).stop_token_ids = {5, 100};
     }},
    {"nodes[1].generate.stop_token_ids", [](TreeRequest& r) { Gen(r, 1).stop_token_ids.assign(257, 5); }},
    {"nodes[1].generate.stop_strings[1]",
     [](TreeRequest& r) {
       Gen(r, 1).stop_strings = {"a", ""};
     }},
    {"nodes[1].generate.stop_strings[0]", [](TreeRequest& r) { Gen(r, 1).stop_strings = {"\xC3"}; }},
    {"nodes[1].generate.stop_strings[0]",
     [](TreeRequest& r) { Gen(r, 1).stop_strings = {std::string(257, 'x')}; }},
    {"nodes[1].generate.stop_strings", [](TreeRequest& r) { Gen(r, 1).stop_strings.assign(17, "x"); }},
    {"nodes[3].select.keep", [](TreeRequest& r) { Sel(r, 3).keep = 0; }},
    {"nodes[3].select.score", [](TreeRequest& r) { Given(r, 2) = GivenSpec{{7}}; }},
    {"nodes[3].select.score",
     [](TreeRequest& r) {
       Given(r, 2) = GivenSpec{{7}};
       Sel(r, 3).score = SelectScore::kSumVerdicts;
     }},
};

const std::vector<BadCase> kSampling = {
    {"temperature", [](TreeRequest& r) { Sampling(r).temperature = -0.1F; }},
    {"temperature", [](TreeRequest& r) { Sampling(r).temperature = 100.5F; }},
    {"temperature", [](TreeRequest& r) { Sampling(r).temperature = kNan; }},
    {"temperature", [](TreeRequest& r) { Sampling(r).temperature = kInfinity; }},
    {"top_k", [](TreeRequest& r) { Sampling(r).top_k = -1; }},
    {"top_p", [](TreeRequest& r) { Sampling(r).top_p = 0; }},
    {"top_p", [](TreeRequest& r) { Sampling(r).top_p = 1.5F; }},
    {"top_p", [](TreeRequest& r) { Sampling(r).top_p = kNan; }},
    {"min_p", [](TreeRequest& r) { Sampling(r).min_p = -0.5F; }},
    {"min_p", [](TreeRequest& r) { Sampling(r).min_p = 1.01F; }},
    {"repetition_penalty", [](TreeRequest& r) { Sampling(r).repetition_penalty = 0; }},
    {"repetition_penalty", [](TreeRequest& r) { Sampling(r).repetition_penalty = 11; }},
    {"presence_penalty", [](TreeRequest& r) { Sampling(r).presence_penalty = 2.1F; }},
    {"presence_penalty", [](TreeRequest& r) { Sampling(r).presence_penalty = kNan; }},
    {"frequency_penalty", [](TreeRequest& r) { Sampling(r).frequency_penalty = -kInfinity; }},
    {"logit_bias[0].token_id",
     [](TreeRequest& r) {
       Sampling(r).logit_bias = {{100, 1.0F}};
     }},
    {"logit_bias[1].token_id",
     [](TreeRequest& r) {
       Sampling(r).logit_bias = {{1, 1.0F}, {-1, 1.0F}};
     }},
    {"logit_bias[0].bias",
     [](TreeRequest& r) {
       Sampling(r).logit_bias = {{1, kNan}};
     }},
    {"logit_bias[0].bias",
     [](TreeRequest& r) {
       Sampling(r).logit_bias = {{1, -101.0F}};
     }},
    {"logit_bias",
     [](TreeRequest& r) {
       Sampling(r).logit_bias.assign(1025, {1, 1.0F});
     }},
};

const std::vector<BadCase> kSize = {
    {"nodes[4].generate.max_new_tokens",
     [](TreeRequest& r) { Gen(r, 4).max_new_tokens = 200 - 5 - 6 - 1 + 1; }},
    {"nodes[0].given", [](TreeRequest& r) { Given(r, 0).token_ids.assign(201, 1); }},
    {"nodes[4].generate.branches", [](TreeRequest& r) { Gen(r, 4).branches = 33; }},
    // 64 leaves under one node and one more next to them.
    {"nodes",
     [](TreeRequest& r) {
       r.nodes.resize(1);
       r.nodes.push_back({"a", 0, Generate(64, 1)});
       r.nodes.push_back({"b", 0, Generate(1, 1)});
     }},
    // One path that the pool cannot hold.
    {"nodes", [](TreeRequest& r) { Given(r, 0).token_ids.assign(188, 1); }},
};

void CheckRefused(const std::vector<BadCase>& cases, const std::string& prefix) {
  for (const BadCase& bad : cases) {
    TreeRequest request = GoodRequest();
    bad.damage(request);
    const Status status = ValidateTreeRequest(request, Limits());
    CAPTURE(prefix + bad.field);
    REQUIRE_FALSE(status.ok());
    CHECK(status.error().code == ErrorCode::kInvalidArgument);
    CHECK(status.error().field == prefix + bad.field);
    CHECK_FALSE(status.error().message.empty());
  }
}

TEST_CASE("a good request is accepted") {
  CHECK(ValidateTreeRequest(GoodRequest(), Limits()).ok());
  TreeRequest prompt_only = GoodRequest();
  prompt_only.nodes.resize(1);
  CHECK(ValidateTreeRequest(prompt_only, Limits()).ok());
}

TEST_CASE("a bad topology is refused and the field named") { CheckRefused(kTopology, ""); }
TEST_CASE("bad content of nodes is refused and the field named") { CheckRefused(kContent, ""); }
TEST_CASE("sampling out of range is refused and the field named") {
  CheckRefused(kSampling, "nodes[1].generate.sampling.");
}
TEST_CASE("what can never fit is refused and the field named") { CheckRefused(kSize, ""); }

TEST_CASE("messages name the range and what was given") {
  TreeRequest request = GoodRequest();
  Sampling(request).top_p = 1.5F;
  CHECK(ValidateTreeRequest(request, Limits()).error().message == "must be in (0, 1], got 1.5");
  request = GoodRequest();
  Given(request, 0).token_ids[2] = 105;
  CHECK(ValidateTreeRequest(request, Limits()).error().message == "must be a token id in [0, 100), got 105");
}

TEST_CASE("values on the edge of their range are accepted") {
  TreeRequest request = GoodRequest();
  Sampling(request).temperature = 0.0F;
  Sampling(request).top_k = INT32_MAX;
  Sampling(request).min_p = 1.0F;
  Sampling(request).repetition_penalty = 10.0F;
  Sampling(request).presence_penalty = -2.0F;
  Sampling(request).frequency_penalty = 2.0F;
  Sampling(request).logit_bias = {{0, -100.0F}, {99, 100.0F}};
  Gen(request, 1).top_logprobs = kMaxTopLogprobs;
  Gen(request, 1).stop_strings.assign(16, std::string(256, 'x'));
  CHECK(ValidateTreeRequest(request, Limits()).ok());
}

TEST_CASE("the longest path that fits is accepted") {
  EngineLimits limits = Limits();
  limits.total_blocks = 1000;
  TreeRequest request = GoodRequest();
  Gen(request, 4).max_new_tokens = 200 - 5 - 6 - 1;
  CHECK(ValidateTreeRequest(request, limits).ok());
}

TEST_CASE("products of branches do not overflow") {
  TreeRequest request;
  request.nodes = {{"root", -1, GivenSpec{{1}}}};
  for (int32_t i = 0; i < 40; ++i) request.nodes.push_back({"g" + std::to_string(i), i, Generate(64, 1)});
  const Status status = ValidateTreeRequest(request, Limits());
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().field == "nodes[2].generate.branches");
  CHECK(CostOf(request, Limits()).leaves == kCostLimit);
}

TEST_CASE("selections cut the number of branches that is counted") {
  const TreeCost cost = CostOf(GoodRequest(), Limits());
  CHECK(cost.nodes[1].branches == 4);
  CHECK(cost.nodes[3].branches == 2);
  CHECK(cost.nodes[4].branches == 6);
  CHECK(cost.nodes[5].branches == 2);  // one of each group of three
  CHECK(cost.nodes[5].path_tokens == 5 + 6 + 1 + 5);
  CHECK(cost.leaves == 6);
}

TEST_CASE("the answer lists a path for each branch and the candidates of each selection") {
  // 1 x 1 + 4 x 2 + 4 x 3 of paths, 4 candidates, 6 x 5 of paths, 6 candidates
  CHECK(CostOf(GoodRequest(), Limits()).answer_entries == 1 + 8 + 12 + 4 + 30 + 6);
}

TEST_CASE("a small request for an answer without bounds is refused") {
  EngineLimits limits = Limits();
  limits.max_path_tokens = 5000;
  limits.total_blocks = 5000;
  TreeRequest request;
  request.nodes = {{"root", -1, GivenSpec{{1}}}, {"g", 0, Generate(60, 1)}};
  for (int32_t i = 2; i < 300; ++i) request.nodes.push_back({"n" + std::to_string(i), i - 1, GivenSpec{{1}}});
  Status status = ValidateTreeRequest(request, limits);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().field == "nodes");
  CHECK(status.error().message.find("the answer would list") == 0);
  request.nodes.resize(100);
  CHECK(ValidateTreeRequest(request, limits).ok());
}

// A chain of nodes with long ids below one node of many branches: a path of ids for each branch of each.
TreeRequest LongIds() {
  TreeRequest request;
  request.nodes = {{"root", -1, GivenSpec{{1}}}};
  for (int32_t i = 0; i < 40; ++i) {
    std::string id = std::to_string(i);
    id.resize(kMaxNodeIdBytes, 'x');
    request.nodes.push_back({id, i, Generate(i == 0 ? 1000 : 1, 1)});
  }
  return request;
}

TEST_CASE("an answer of too many bytes is refused, and the node that takes the most is named") {
  EngineLimits limits = Limits();
  limits.max_branches = 1024;
  limits.max_path_tokens = 2048;
  limits.total_blocks = 5000;
  const auto refused_at = [&](const TreeRequest& request) {
    const Status status = ValidateTreeRequest(request, limits);
    if (status.ok()) return std::string();
    CHECK(status.error().code == ErrorCode::kInvalidArgument);
    CHECK(status.error().message.find("max_answer_bytes") != std::string::npos);
    return status.error().field;
  };
  CHECK(refused_at(LongIds()) == "nodes[40].generate");
  TreeRequest request;
  request.nodes = {
      {"root", -1, GivenSpec{{1}}}, {"few", 0, Generate(2, 10)}, {"answer", 0, Generate(1000, 1000)}};
  CHECK(refused_at(request).empty());  // real use
  Gen(request, 2).top_logprobs = 20;
  CHECK(refused_at(request) == "nodes[2].generate");
  Gen(request, 2).top_logprobs = 0;
  request.nodes[2].id.assign(kMaxNodeIdBytes, 'x');
  CHECK(refused_at(request) == "nodes[2].generate");
  limits.max_answer_bytes = int64_t{1} << 29;
  CHECK(refused_at(request).empty());
  limits.max_answer_bytes = kDefaultAnswerBytes;
  request.nodes.resize(1);
  for (int32_t i = 0; i < 1000; ++i) {
    const std::vector<int32_t> tokens(2000, 1);
    request.nodes.push_back({"s" + std::to_string(1000 + i), 0, GivenSpec{tokens, true, 20}});
  }
  CHECK(refused_at(request) == "nodes[1].given");
}

TEST_CASE("memory at the worst point is that of the longest path") {
  CHECK(CostOf(GoodRequest(), Limits()).min_blocks == 5);  // 5 + 6 + 1 + 5 tokens in blocks of 4
  TreeRequest independent = GoodRequest();
  independent.nodes.resize(2);
  Gen(independent, 1).branches = 1000;
  CHECK(CostOf(independent, Limits()).min_blocks == 3);
}

TEST_CASE("a tree of the greatest size is validated quickly enough to be refused or served") {
  TreeRequest request;
  request.nodes = {{"root", -1, GivenSpec{{1}}}, {"g", 0, Generate(2, 1)}};
  while (request.nodes.size() < static_cast<size_t>(kMaxNodesPerRequest)) {
    const auto i = static_cast<int32_t>(request.nodes.size());
    request.nodes.push_back({"s" + std::to_string(i), i - 1, SelectSpec{}});
  }
  CHECK(ValidateTreeRequest(request, Limits()).ok());
}

}  // namespace
}  // namespace espalier
