#include <vector>

#include "kernels/plan/attention_plan.h"
#include "tests/engine/fakes/scheduler_harness.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using test::HarnessOptions;
using test::SchedulerHarness;

TreeRequest Request(std::vector<int32_t> prompt, int32_t branches, int32_t max_new_tokens) {
  TreeRequest request;
  GenerateSpec generate;
  generate.branches = branches;
  generate.max_new_tokens = max_new_tokens;
  generate.ignore_eos = true;
  request.nodes = {{"prompt", -1, GivenSpec{std::move(prompt)}}, {"answer", 0, generate}};
  return request;
}

// Adds a token tree as speculative verification will have it: a root with two children, the first of which
// has a child of its own. All in one block.
void AddTokenTree(int32_t block, StepInput* step) {
  TreeBatch& batch = step->batch;
  const int32_t row = batch.rows();
  const auto node = static_cast<int32_t>(batch.nodes.size());
  batch.nodes.push_back({.parent = -1,
                         .begin_position = 0,
                         .cached_tokens = 0,
                         .first_block = static_cast<int32_t>(batch.blocks.size()),
                         .first_row = row,
                         .rows = 4,
                         .subtree_end_row = row + 4});
  const int32_t positions[] = {0, 1, 2, 1};
  const int32_t ends[] = {4, 3, 3, 4};
  batch.blocks.push_back(block);
  for (int32_t i = 0; i < 4; ++i) {
    batch.row_node.push_back(node);
    batch.row_position.push_back(positions[i]);
    batch.row_subtree_end.push_back(row + ends[i]);
    step->tokens.push_back({.token_id = 20 + i, .sequence_slot = -1});
  }
}

// What kinds of rows a step holds.
struct Mixture {
  int32_t trees = 0;
  int32_t decode_rows = 0;
  int32_t prefill_rows = 0;
};
Mixture MixtureOf(const TreeBatch& batch) {
  Mixture mixture;
  for (const BatchNode& node : batch.nodes) {
    mixture.trees += node.parent < 0 ? 1 : 0;
    (node.rows > 1 ? mixture.prefill_rows : mixture.decode_rows) += node.rows;
  }
  return mixture;
}

TEST_CASE("prefill, decode and token-tree rows of three requests are one step with one plan") {
  HarnessOptions options;
  options.runner.block_tokens = 8;
  options.max_batch_rows = 32;
  SchedulerHarness harness(options);
  // Two requests that decode; the long prompt of a third one arrives meanwhile.
  std::vector<uint64_t> ids = {harness.Submit(Request({5, 6, 7, 8, 9, 10, 11, 12, 13}, 3, 8)),
                               harness.Submit(Request({10, 11, 12}, 1, 8))};
  REQUIRE(harness.Step());
  ids.push_back(harness.Submit(Request(std::vector<int32_t>(40, 4), 2, 3)));

  const std::shared_ptr<const StepInput> planned = harness.scheduler().Next();
  REQUIRE(planned != nullptr);
  const Mixture mixture = MixtureOf(planned->batch);
  CHECK(mixture.trees == 3);
  CHECK(mixture.decode_rows == 4);
  CHECK(mixture.prefill_rows == options.prefill_chunk_tokens);

  // Nothing drafts tokens yet: a token tree joins by hand, in a block that is free.
  StepInput step = *planned;
  const int32_t first_row = step.batch.rows();
  const int32_t block = harness.scheduler().FreeBlocks().back();
  step.zero_blocks.push_back(block);
  AddTokenTree(block, &step);
  for (int32_t i = 0; i < 4; ++i) {
    step.scores.push_back({.logit_index = static_cast<int32_t>(step.logit_rows.size()), .token_id = 9});
    step.logit_rows.push_back(first_row + i);
  }
  const ModelInfo& info = harness.runner().info();
  step.plan = PlanAttention(step.batch, info.attention, info.backend.plan);
  REQUIRE(CheckPlan(step.batch, step.plan, info.backend.plan).ok());
  harness.runner().Issue(std::make_shared<const StepInput>(step));
  StepResult result = *harness.runner().Wait();
  CHECK(harness.runner().device()->Problem().empty());

  const std::vector<std::vector<int32_t>> paths = {{20}, {20, 21}, {20, 21, 22}, {20, 23}};
  REQUIRE(result.scores.size() == planned->scores.size() + paths.size());
  for (size_t i = 0; i < paths.size(); ++i) {
    const auto logits = harness.model().Logits(test::FakeModel::StateOf(paths[i]));
    CHECK(result.scores[planned->scores.size() + i].logprob == harness.model().Score(logits, 9, 0).logprob);
  }
  result.scores.resize(planned->scores.size());
  harness.scheduler().Commit(result);
  harness.RunUntilIdle();
  CHECK(harness.problem().empty());
  for (const uint64_t id : ids) CHECK(harness.Compare(id).empty());
}

}  // namespace
}  // namespace espalier
