// Costs of the scheduler that must not grow with the square of anything: counted, never timed.
#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/request_tree.h"
#include "engine/scheduler.h"
#include "tests/engine/fakes/scheduler_harness.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using test::HarnessOptions;
using test::SchedulerHarness;

GivenSpec Given(int32_t tokens, int32_t first_token) {
  GivenSpec given;
  for (int32_t i = 0; i < tokens; ++i) given.token_ids.push_back((first_token + i * 7) % 31);
  return given;
}

TreeRequest FewShot(int32_t prompt_tokens, int32_t branches, int32_t max_new_tokens, int32_t first_token) {
  TreeRequest request;
  request.nodes.push_back({"prompt", -1, Given(prompt_tokens, first_token)});
  GenerateSpec generate;
  generate.branches = branches;
  generate.max_new_tokens = max_new_tokens;
  generate.ignore_eos = true;
  request.nodes.push_back({"answer", 0, generate});
  return request;
}

HarnessOptions Pool(int32_t blocks) {
  HarnessOptions options;
  options.runner.total_blocks = blocks;
  options.runner.block_tokens = 4;
  options.runner.max_positions = 2048;
  options.runner.steps_in_flight = 1;
  options.max_branches = 2048;
  return options;
}

HarnessOptions Pool(int32_t blocks, int32_t rows, int32_t prefill_chunk_tokens) {
  HarnessOptions options = Pool(blocks);
  options.max_batch_rows = rows;
  options.prefill_chunk_tokens = prefill_chunk_tokens;
  options.runner.max_rows = rows;
  return options;
}

// The most that a step looks at for room, from now on to the end.
int64_t MaxLookedAt(SchedulerHarness* harness) {
  int64_t max = 0;
  for (int64_t before = harness->scheduler().looked_at_for_room();
       harness->Step() && harness->problem().empty();) {
    const int64_t now = harness->scheduler().looked_at_for_room();
    max = std::max(max, now - before);
    before = now;
  }
  REQUIRE(harness->problem().empty());
  CHECK(harness->scheduler().idle());
  return max;
}

TEST_CASE("seeking room looks at each request and branch once a step, however many branches seek it") {
  constexpr int32_t kBranches = 120;
  constexpr int32_t kWaiting = 200;
  enum class Waiting : uint8_t { kAlike, kLowerPriority, kOwnPeers };
  for (const Waiting waiting : {Waiting::kAlike, Waiting::kLowerPriority, Waiting::kOwnPeers}) {
    CAPTURE(static_cast<int>(waiting));
    SchedulerHarness harness(Pool(160, 256, 12));
    harness.Submit(FewShot(9, kBranches, 12, 0));  // all of its branches need a block in the same step
    for (int32_t i = 0; i < kWaiting; ++i) {
      TreeRequest request = FewShot(9, 1, 2, i + 1);
      if (waiting == Waiting::kLowerPriority) request.priority = -1;
      if (waiting == Waiting::kOwnPeers) request.peer = "peer " + std::to_string(i);
      harness.Submit(request);
    }
    const int64_t max = MaxLookedAt(&harness);
    CHECK(max > kBranches / 4);  // it was needed
    CHECK(max <= 3 * kBranches + kWaiting);
  }
}

TEST_CASE("a burst of preemptions looks at each request once") {
  constexpr int32_t kRequests = 150;
  SchedulerHarness harness(Pool(600, 512, 512));
  for (int32_t i = 0; i < kRequests; ++i) {
    TreeRequest small = FewShot(5, 1, 40, i);
    small.peer = "many";
    harness.Submit(small);
  }
  for (int i = 0; i < 12; ++i) harness.Step();
  const int64_t before = harness.scheduler().Stats().preemptions;
  TreeRequest large = FewShot(4 * 250, 1, 2, 3);
  large.peer = "one";
  harness.Submit(large);
  const int64_t max = MaxLookedAt(&harness);
  CHECK(harness.scheduler().Stats().preemptions - before > 40);
  CHECK(max > 40);
  CHECK(max <= 3 * kRequests);
}

TEST_CASE("a burst of dropped branches looks at each branch once") {
  constexpr int32_t kBranches = 150;
  for (const bool same_peer : {false, true}) {
    CAPTURE(same_peer);
    SchedulerHarness harness(Pool(360, 512, 512));
    TreeRequest search = FewShot(5, kBranches, 40, 0);
    std::get<GenerateSpec>(search.nodes[1].content).stop_token_ids = {3, 11, 19};
    search.nodes.push_back({"best", 1, SelectSpec{.keep = 1}});  // most wait there for the last ones
    search.peer = "search";
    TreeRequest large = FewShot(4 * 165, 1, 2, 3);
    large.peer = same_peer ? search.peer : "one";
    if (same_peer) large.priority = 1;
    harness.Submit(search);
    for (int i = 0; i < 10; ++i) harness.Step();
    harness.Submit(large);
    const int64_t max = MaxLookedAt(&harness);
    CHECK(max > 40);
    CHECK(max <= 3 * kBranches);
  }
}

TEST_CASE("paths with penalties are handed to the device once, however many branches have them in common") {
  constexpr int32_t kPrompt = 400;
  HarnessOptions options = Pool(1024);
  options.max_batch_rows = 512;
  options.runner.max_rows = 512;
  SchedulerHarness harness(options);
  TreeRequest request = FewShot(kPrompt, 20, 3, 0);
  std::get<GenerateSpec>(request.nodes[1].content).sampling.presence_penalty = 1.0F;
  GenerateSpec below = std::get<GenerateSpec>(request.nodes[1].content);
  below.branches = 10;
  request.nodes.push_back({"below", 1, below});
  const uint64_t id = harness.Submit(request);
  size_t histories = 0;
  std::set<std::shared_ptr<const PathHistory>> pieces;
  while (harness.Step() && harness.problem().empty()) {
    for (const SequenceHistory& history : harness.last_issued()->histories) {
      ++histories;
      for (std::shared_ptr<const PathHistory> piece = history.path; piece != nullptr; piece = piece->above)
        pieces.insert(piece);
    }
  }
  REQUIRE(harness.problem().empty());
  size_t tokens = 0;
  for (const auto& piece : pieces) tokens += piece->prompt_tokens.size() + piece->generated_tokens.size();
  CHECK(histories == 20 + 20 * 10);
  CHECK(tokens == kPrompt + 20 * 3);
  CHECK(harness.Compare(id) == "");
}

TEST_CASE("a deep path with penalties is a few pieces") {
  SchedulerHarness harness(Pool(512));
  TreeRequest request = FewShot(5, 1, 2, 0);
  std::get<GenerateSpec>(request.nodes[1].content).sampling.repetition_penalty = 1.5F;
  for (int32_t i = 0; i < 150; ++i) {
    TreeNodeSpec next = request.nodes[1];
    next.id += std::to_string(i);
    next.parent = static_cast<int32_t>(request.nodes.size()) - 1;
    request.nodes.push_back(next);
  }
  const uint64_t id = harness.Submit(request);
  harness.RunUntilIdle();
  CHECK(harness.problem() == "");  // the device counts pieces
  CHECK(harness.Compare(id) == "");
}

TEST_CASE("pruned branches leave the cache before prompts that others may ask for again") {
  SchedulerHarness harness(Pool(20));
  const TreeRequest prompt = FewShot(17, 1, 1, 0);
  harness.Submit(prompt);
  harness.RunUntilIdle();
  TreeRequest search = FewShot(9, 4, 8, 1);
  search.nodes.push_back({"best", 1, SelectSpec{.keep = 1}});
  harness.Submit(search);
  harness.RunUntilIdle();
  const int64_t evicted_before = harness.scheduler().Stats().evicted_blocks;
  harness.Submit(FewShot(38, 1, 1, 2));
  harness.RunUntilIdle();
  const int64_t evicted = harness.scheduler().Stats().evicted_blocks - evicted_before;
  CHECK(evicted >= 3);
  CHECK(evicted <= 6);  // no more than the pruned branches have left
  const uint64_t again = harness.Submit(prompt);
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.finished(again).usage.cached_tokens == 16);
}

TEST_CASE("the answer is moved out of its tree, and the tree is freed with its last event") {
  SchedulerHarness harness(Pool(64));
  Scheduler& scheduler = harness.scheduler();
  std::shared_ptr<ScheduledRequest> prepared = scheduler.Prepare(FewShot(9, 2, 4, 0));
  const std::weak_ptr<ScheduledRequest> tree = prepared;
  scheduler.Submit(1, std::move(prepared));
  const int32_t* tokens = nullptr;  // of branch 1, before the end
  while (!scheduler.idle()) {
    if (std::shared_ptr<const StepInput> step = scheduler.Next()) harness.runner().Issue(std::move(step));
    const Result<StepResult> result = harness.runner().Wait();
    REQUIRE(result.ok());
    // The last token grows no vector: 4 were reserved with the third.
    if (const auto running = tree.lock(); running->tree.branch(1).size() == 3)
      tokens = running->tree.branch(1).tokens.data();
    scheduler.Commit(*result);
  }
  std::vector<RequestEvent> events = scheduler.TakeEvents();
  const auto& finished = std::get<TreeFinished>(events.back().event);
  CHECK(finished.branches[0].token_ids.data() == tokens);
  CHECK_FALSE(tree.expired());
  events.pop_back();
  CHECK(tree.expired());
}

TEST_CASE("scores are freed once they are reported") {
  TreeRequest request;
  request.return_logprobs = true;
  GivenSpec scored = Given(3, 1);
  scored.score = true;
  scored.top_logprobs = 5;
  request.nodes = {{"prompt", -1, Given(5, 0)}, {"scored", 0, scored}};
  const TreeContext context{.tokenizer = nullptr, .eos_token_ids = {}, .max_path_tokens = 100};
  RequestTree tree(request, &context);
  std::vector<int32_t> created;
  tree.Start(&created);
  REQUIRE(created == std::vector<int32_t>{0, 1});
  for (int32_t i = 0; i < 3; ++i) {
    TokenResult score{.token_id = 0, .logprob = -1.0F, .top_logprobs = {}};
    score.top_logprobs.resize(5);
    CHECK(tree.TakeScore(1, score) == (i == 2));
  }
  CHECK(tree.branch(1).scores.size() == 3);
  tree.DropScores(1);
  CHECK(tree.branch(1).scores.capacity() == 0);
  CHECK(tree.done());
  CHECK(tree.TakeSummaries()[0].logprobs == std::vector<float>(3, -1.0F));
}

}  // namespace
}  // namespace espalier
