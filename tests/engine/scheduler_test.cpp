// Promises of the scheduler that one can count: shared prefill, who gets rows, what a step holds.
#include "engine/scheduler.h"

#include <algorithm>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "engine/random_stream.h"
#include "tests/engine/fakes/scheduler_harness.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using test::HarnessOptions;
using test::SchedulerHarness;

TreeRequest Prompt(int32_t tokens, int32_t first_token = 0) {
  TreeRequest request;
  GivenSpec given;
  for (int32_t i = 0; i < tokens; ++i) given.token_ids.push_back((first_token + i * 7) % 31);
  request.nodes.push_back({"prompt", -1, given});
  return request;
}

GenerateSpec Branches(int32_t branches, int32_t max_new_tokens) {
  GenerateSpec generate;
  generate.branches = branches;
  generate.max_new_tokens = max_new_tokens;
  generate.ignore_eos = true;
  return generate;
}

TreeRequest FewShot(int32_t prompt_tokens, int32_t branches, int32_t max_new_tokens,
                    int32_t first_token = 0) {
  TreeRequest request = Prompt(prompt_tokens, first_token);
  request.nodes.push_back({"answer", 0, Branches(branches, max_new_tokens)});
  return request;
}

HarnessOptions LargePool() {
  HarnessOptions options;
  options.runner.total_blocks = 4096;
  options.runner.block_tokens = 4;
  options.runner.max_positions = 2048;
  options.runner.steps_in_flight = 2;
  options.max_branches = 2048;
  return options;
}

// Steps of so many rows, one at a time.
HarnessOptions StepsOf(int32_t rows) {
  HarnessOptions options = LargePool();
  options.max_batch_rows = rows;
  options.runner.steps_in_flight = 1;
  return options;
}

// Rows of tokens at or beyond a position.
int32_t RowsAt(const StepInput& step, int32_t min_position) {
  int32_t rows = 0;
  for (const int32_t position : step.batch.row_position) rows += position >= min_position ? 1 : 0;
  return rows;
}

int32_t GeneratedTokens(const SchedulerHarness& harness, uint64_t id) {
  size_t tokens = 0;
  for (const TreeEvent& event : harness.events(id)) {
    const auto* delta = std::get_if<TreeDelta>(&event);
    if (delta == nullptr) continue;
    for (const BranchDelta& branch : delta->branches) tokens += branch.token_ids.size();
  }
  return static_cast<int32_t>(tokens);
}

TEST_CASE("two equal prompts of 1000 tokens in flight compute at most 1000 tokens and one block") {
  SchedulerHarness harness(LargePool());
  const uint64_t first = harness.Submit(FewShot(1000, 1, 1));
  harness.Step();
  const uint64_t second = harness.Submit(FewShot(1000, 1, 1));
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.scheduler().Stats().computed_tokens <= 1004);
  CHECK(harness.finished(second).usage.cached_tokens == 996);
  CHECK(harness.Compare(first).empty());
  CHECK(harness.Compare(second).empty());
}

TEST_CASE("a branch that awaits its results is in one step in flight, others are in two") {
  constexpr int32_t kBranches = 3;
  SchedulerHarness harness(LargePool());
  TreeRequest awaits = FewShot(8, kBranches, 6);
  std::get<GenerateSpec>(awaits.nodes[1].content).awaits_result = true;
  TreeRequest runs_ahead = FewShot(8, kBranches, 6, 1);
  runs_ahead.seed = 1;
  const std::vector<uint64_t> ids = {harness.Submit(awaits), harness.Submit(runs_ahead)};

  // In how many neighbouring steps in flight the branches of the request with this seed both sample a token.
  int32_t twice[2] = {0, 0};
  std::deque<std::set<uint64_t>> in_flight;  // streams of the branches that sample
  do {
    while (harness.Issue()) {
      in_flight.emplace_back();
      for (const SampleRequest& sample : harness.last_issued()->samples)
        in_flight.back().insert(sample.stream);
      if (in_flight.size() < 2) continue;
      for (uint64_t seed = 0; seed < 2; ++seed) {
        for (int32_t i = 0; i < kBranches; ++i) {
          const uint64_t stream = ChildStream(RootStream(seed), i);
          twice[seed] += in_flight[0].count(stream) > 0 && in_flight[1].count(stream) > 0 ? 1 : 0;
        }
      }
    }
    if (harness.Commit()) in_flight.pop_front();
  } while (!harness.scheduler().idle() && harness.problem().empty());
  REQUIRE(harness.problem().empty());
  CHECK(twice[0] == 0);
  CHECK(twice[1] == 5 * kBranches);
  for (const uint64_t id : ids) CHECK(harness.Compare(id) == "");
}

// A pool for one request of kOnlyOne at a time, next to which another cannot be admitted.
HarnessOptions PoolForOne() {
  HarnessOptions options = LargePool();
  options.runner.total_blocks = 8;
  return options;
}
TreeRequest OnlyOne(int32_t first_token, int32_t priority) {
  TreeRequest request = FewShot(20, 1, 8, first_token);
  request.priority = priority;
  return request;
}

// Ids of requests in the order in which they finish.
std::vector<uint64_t> Finished(SchedulerHarness* harness) {
  std::vector<uint64_t> ids;
  for (const RequestEvent& event : harness->TakeNewEvents())
    if (std::holds_alternative<TreeFinished>(event.event)) ids.push_back(event.request_id);
  return ids;
}

TEST_CASE("requests are served by priority, then as they arrive, whatever their ids") {
  SchedulerHarness harness(PoolForOne());
  harness.SubmitAs(30, OnlyOne(0, 0));
  harness.SubmitAs(10, OnlyOne(1, 0));
  harness.SubmitAs(40, OnlyOne(2, 1));
  harness.SubmitAs(20, OnlyOne(3, -1));
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(Finished(&harness) == std::vector<uint64_t>{40, 30, 10, 20});
}

TEST_CASE("a request gives way to one of higher priority, and goes on after it") {
  SchedulerHarness harness(PoolForOne());
  const uint64_t low = harness.Submit(OnlyOne(0, 0));
  for (int32_t i = 0; i < 4; ++i) harness.Step();
  const uint64_t high = harness.Submit(OnlyOne(1, 1));
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.scheduler().Stats().preemptions >= 1);
  CHECK(Finished(&harness) == std::vector<uint64_t>{high, low});
  for (const uint64_t id : {low, high}) CHECK(harness.Compare(id) == "");
}

TEST_CASE("a request that waits for its client holds no memory and does not delay others") {
  SchedulerHarness harness(PoolForOne());
  TreeRequest open = OnlyOne(0, 1);
  open.stays_open = true;
  const uint64_t waiting = harness.Submit(open);
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK_FALSE(harness.ended(waiting));
  CHECK_FALSE(harness.scheduler().idle());
  CHECK_FALSE(harness.scheduler().runnable());
  CHECK(harness.scheduler().Next() == nullptr);
  CHECK(harness.scheduler().Stats().blocks_live == 0);
  CHECK(GeneratedTokens(harness, waiting) == 8);

  const uint64_t other = harness.Submit(OnlyOne(1, 0));
  harness.RunUntilIdle();
  CHECK(harness.Compare(other) == "");
  harness.Close(waiting);
  CHECK(harness.Compare(waiting) == "");
  CHECK(harness.scheduler().idle());
  CHECK(harness.problem().empty());
}

TEST_CASE(
    "a request that is closed while it runs ends when all of it is there; one that waits can be cancelled") {
  SchedulerHarness harness(LargePool());
  TreeRequest open = FewShot(8, 2, 6);
  open.stays_open = true;
  const uint64_t closed = harness.Submit(open);
  const uint64_t cancelled = harness.Submit(open);
  harness.Step();
  harness.Close(closed);
  CHECK_FALSE(harness.ended(closed));
  harness.RunUntilIdle();
  CHECK(harness.Compare(closed) == "");
  CHECK_FALSE(harness.ended(cancelled));
  harness.Cancel(cancelled);
  CHECK(harness.ended(cancelled));
  CHECK(harness.scheduler().idle());
  CHECK(harness.problem().empty());
}

TEST_CASE("where steps are full, requests wait instead of sharing their rows in slivers") {
  SchedulerHarness harness(StepsOf(32));
  std::vector<uint64_t> ids;
  for (int32_t i = 0; i < 100; ++i) ids.push_back(harness.Submit(FewShot(8, 4, 6, i)));
  int64_t max_running = 0;
  while (harness.Step()) {
    const auto running = std::count_if(ids.begin(), ids.end(), [&](uint64_t id) {
      return !harness.ended(id) && GeneratedTokens(harness, id) > 4;
    });
    max_running = std::max<int64_t>(max_running, running);
  }
  REQUIRE(harness.problem().empty());
  CHECK(max_running >= 32 / 4);
  CHECK(max_running <= 32);  // of 4 branches: more than the rows of a step
  for (const uint64_t id : ids) CHECK(harness.Compare(id).empty());
}

TEST_CASE(
    "where steps are full, a young tree gives its first tokens before older trees end, then waits its turn") {
  SchedulerHarness harness(StepsOf(64));
  std::vector<uint64_t> older;
  for (int32_t i = 0; i < 32; ++i) older.push_back(harness.Submit(FewShot(4, 8, 20, i)));
  for (int i = 0; i < 12; ++i) harness.Step();
  const uint64_t young = harness.Submit(FewShot(4, 8, 20, 40));
  for (int i = 0; i < 2; ++i) harness.Step();
  CHECK(GeneratedTokens(harness, young) == 8);
  CHECK(std::none_of(older.begin(), older.end(), [&](uint64_t id) { return harness.ended(id); }));
  while (!harness.ended(older[0]) && harness.Step()) continue;
  CHECK(GeneratedTokens(harness, young) == 8);
  harness.RunUntilIdle();
  for (const uint64_t id : older) CHECK(harness.Compare(id).empty());
  CHECK(harness.Compare(young).empty());
}

TEST_CASE("the oldest trees run whole while ever younger ones give their first tokens") {
  SchedulerHarness harness(StepsOf(64));
  std::vector<uint64_t> ids;
  for (int32_t i = 0; i < 40; ++i) ids.push_back(harness.Submit(FewShot(4, 6, 20, i)));
  int steps = 0;
  for (; !harness.ended(ids[0]) && harness.Step(); ++steps)
    ids.push_back(harness.Submit(FewShot(4, 6, 20, 40 + steps)));
  CHECK(steps <= 20 + 4);
  CHECK(GeneratedTokens(harness, ids[40]) == 6);
  harness.RunUntilIdle();
  for (const uint64_t id : ids) CHECK(harness.Compare(id).empty());
}

TEST_CASE("a tree is begun ahead of its turn only where half of the pool is left to those before it") {
  HarnessOptions options = StepsOf(64);
  options.runner.total_blocks = 400;
  SchedulerHarness harness(options);
  for (int32_t i = 0; i < 32; ++i) harness.Submit(FewShot(4, 8, 20, i));
  const auto live = [&] { return harness.scheduler().Stats().blocks_live; };
  while (live() < 210 && harness.Step()) continue;
  REQUIRE(live() >= 210);
  const uint64_t young = harness.Submit(FewShot(4, 8, 20, 40));
  REQUIRE(harness.Step());
  CHECK(harness.scheduler().Stats().requests_queued == 1);
  while (live() > 190 && harness.Step()) continue;
  for (int i = 0; i < 2; ++i) REQUIRE(harness.Step());
  CHECK(harness.scheduler().Stats().requests_queued == 0);
  harness.RunUntilIdle();
  CHECK(harness.Compare(young).empty());
}

TEST_CASE("no more than 128 trees are begun where steps are full") {
  SchedulerHarness harness(StepsOf(32));
  for (int32_t i = 0; i < 200; ++i) harness.Submit(FewShot(8, 4, 6, i));
  int32_t max_active = 0;
  while (harness.Step()) {
    const EngineStats stats = harness.scheduler().Stats();
    max_active = std::max(max_active, stats.requests_active - stats.requests_queued);
  }
  CHECK(harness.problem().empty());
  CHECK(max_active == 128);
}

TEST_CASE("where steps have rows to spare, every request runs") {
  HarnessOptions options = LargePool();
  options.runner.max_rows = 400;
  options.max_batch_rows = 400;
  SchedulerHarness harness(options);
  std::vector<uint64_t> ids;
  for (int32_t i = 0; i < 100; ++i) ids.push_back(harness.Submit(FewShot(8, 4, 6, i)));
  harness.Step();
  CHECK(harness.scheduler().Stats().requests_queued == 0);
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  for (const uint64_t id : ids) CHECK(harness.Compare(id).empty());
}

TEST_CASE("a shared prefill goes on when the request that began it is cancelled") {
  SchedulerHarness harness(LargePool());
  const uint64_t first = harness.Submit(FewShot(200, 1, 2));
  const uint64_t second = harness.Submit(FewShot(200, 2, 2));
  for (int i = 0; i < 3; ++i) harness.Step();
  harness.Cancel(first);
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.Compare(second).empty());
  CHECK(harness.scheduler().Stats().computed_tokens <= 200 + 4 + 4);
}

TEST_CASE("decoding branches have a row in every step while long prompts are prefilled") {
  HarnessOptions options = LargePool();
  options.runner.steps_in_flight = 1;
  SchedulerHarness harness(options);
  harness.Submit(FewShot(4, 3, 60, 1));
  harness.Step();
  harness.Submit(FewShot(600, 1, 1, 2));
  harness.Submit(FewShot(600, 1, 1, 3));
  for (int i = 0; i < 40; ++i) {
    REQUIRE(harness.Step());
    CHECK(harness.last_issued()->samples.size() >= 3);
    CHECK(harness.last_issued()->batch.rows() > 3);  // and prefill together with them
  }
  harness.RunUntilIdle();
  CHECK(harness.problem().empty());
}

TEST_CASE("a prompt is prefilled next to more decoding branches than a step has rows") {
  SchedulerHarness harness(StepsOf(16));
  harness.Submit(FewShot(4, 40, 100, 1));
  for (int i = 0; i < 4; ++i) harness.Step();
  const uint64_t prompt = harness.Submit(FewShot(100, 1, 5, 2));
  int steps = 0;
  while (!harness.ended(prompt) && harness.Step()) ++steps;
  CHECK(steps < 100 / 4 + 5 + 10);
  harness.RunUntilIdle();
  CHECK(harness.problem().empty());
}

TEST_CASE("no request waits for the whole prompt of another") {
  SchedulerHarness harness(StepsOf(32));
  std::vector<uint64_t> large;
  for (int32_t i = 0; i < 3; ++i) large.push_back(harness.Submit(FewShot(1200, 1, 1, i)));
  for (int i = 0; i < 2; ++i) harness.Step();
  const auto steps_to_end = [&](uint64_t id) {
    int steps = 0;
    while (!harness.ended(id) && harness.Step()) ++steps;
    return steps;
  };
  CHECK(steps_to_end(harness.Submit(FewShot(2, 1, 1, 10))) == 1);
  CHECK(steps_to_end(harness.Submit(FewShot(40, 1, 1, 11))) <= 40 / (32 / 4 / 4));
  for (const uint64_t id : large) CHECK(!harness.ended(id));
  harness.Submit(FewShot(4, 2, 400, 12));  // now there is less for prompts in a step: 12 rows
  for (int i = 0; i < 2; ++i) harness.Step();
  CHECK(steps_to_end(harness.Submit(FewShot(2, 1, 1, 13))) <= 3);
  // The oldest is served as well as it can be: by three of four rows.
  CHECK(steps_to_end(large[0]) <= 1200 / 9 + 1);
  CHECK(!harness.ended(large[1]));
  harness.RunUntilIdle();
  for (const uint64_t id : large) CHECK(harness.Compare(id).empty());
}

TEST_CASE("of more prompts than a step has rows, none is forgotten") {
  SchedulerHarness harness(StepsOf(16));
  std::vector<uint64_t> ids;
  for (int32_t i = 0; i < 30; ++i) ids.push_back(harness.Submit(FewShot(200, 1, 1, i)));
  for (int i = 0; i < 8; ++i) harness.Step();
  const uint64_t small = harness.Submit(FewShot(3, 1, 1, 30));
  int steps = 0;
  while (!harness.ended(small) && harness.Step()) ++steps;
  CHECK(steps <= 3 * (30 / 4 + 1));  // 4 rows of each step go round
  CHECK(std::none_of(ids.begin() + 1, ids.end(), [&](uint64_t id) { return harness.ended(id); }));
  harness.RunUntilIdle();
  for (const uint64_t id : ids) CHECK(harness.Compare(id).empty());
}

TEST_CASE("one branch next to a tree of hundreds has a row in every step") {
  SchedulerHarness harness(StepsOf(16));
  const uint64_t wide = harness.Submit(FewShot(4, 200, 8, 1));
  for (int i = 0; i < 4; ++i) harness.Step();
  const uint64_t narrow = harness.Submit(FewShot(4, 1, 30, 2));
  int steps = 0;
  while (!harness.ended(narrow) && harness.Step()) ++steps;
  CHECK(steps <= 30 + 3);
  harness.RunUntilIdle();
  CHECK(harness.Compare(wide).empty());
  CHECK(harness.Compare(narrow).empty());
}

TEST_CASE("where branches want more rows than a step has, the oldest trees run whole") {
  SchedulerHarness harness(StepsOf(64));
  std::vector<uint64_t> ids;
  for (int32_t i = 0; i < 20; ++i) ids.push_back(harness.Submit(FewShot(4, 8, 20, i)));
  int steps = 0;
  while (!harness.ended(ids[0]) && harness.Step()) ++steps;
  CHECK(steps <= 20 + 4);  // an equal share, 3 rows of the 8 that it wants, would take 53
  harness.RunUntilIdle();
  for (const uint64_t id : ids) CHECK(harness.Compare(id).empty());
}

TEST_CASE("a tree of hundreds leaves younger trees their share") {
  SchedulerHarness harness(StepsOf(64));
  const uint64_t wide = harness.Submit(FewShot(4, 200, 30, 1));
  for (int i = 0; i < 4; ++i) harness.Step();
  std::vector<uint64_t> younger;
  for (int32_t i = 2; i < 5; ++i) younger.push_back(harness.Submit(FewShot(4, 20, 20, i)));
  const auto under_way = [&] {
    return std::any_of(younger.begin(), younger.end(), [&](uint64_t id) { return !harness.ended(id); });
  };
  int steps = 0;
  while (under_way() && harness.Step()) ++steps;
  // Of 64 rows the oldest gets 17 and the next two as many; the last one 13, and more when they have ended.
  CHECK(steps <= 40);
  CHECK(!harness.ended(wide));
  harness.RunUntilIdle();
  for (const uint64_t id : younger) CHECK(harness.Compare(id).empty());
  CHECK(harness.Compare(wide).empty());
}

TEST_CASE("1000 branches sample their first tokens in one step from one row of logits") {
  HarnessOptions options = LargePool();
  options.runner.steps_in_flight = 1;
  SchedulerHarness harness(options);
  const uint64_t id = harness.Submit(FewShot(4, 1000, 3));
  harness.Step();
  CHECK(harness.last_issued()->samples.size() == 1000);
  CHECK(harness.last_issued()->logit_rows.size() == 1);
  CHECK(harness.last_issued()->params.size() == 1);
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.Compare(id).empty());
}

TEST_CASE("questions under a prompt share it, and each is cached for the next request") {
  SchedulerHarness harness(LargePool());
  TreeRequest request = Prompt(80);
  for (int32_t question = 0; question < 5; ++question) {
    GivenSpec given;
    for (int32_t i = 0; i < 10; ++i) given.token_ids.push_back((question * 5 + i * 3) % 31);
    const auto parent = static_cast<int32_t>(request.nodes.size());
    request.nodes.push_back({"question" + std::to_string(question), 0, given});
    request.nodes.push_back({"answer" + std::to_string(question), parent, Branches(2, 3)});
  }
  const uint64_t first = harness.Submit(request);
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.Compare(first).empty());
  // The prompt once; five questions; each branch runs all of its tokens but the last.
  CHECK(harness.finished(first).usage.computed_tokens <= 80 + 5 * 10 + 5 * 2 * 2);
  const uint64_t second = harness.Submit(request);
  harness.RunUntilIdle();
  CHECK(harness.finished(second).usage.cached_tokens >= 80 + 5 * 6);
  CHECK(harness.Compare(second).empty());
}

TEST_CASE("single-token continuations are scored with one row each, and never from the cache") {
  SchedulerHarness harness(LargePool());
  TreeRequest request = Prompt(41);
  request.nodes.push_back({"thought", 0, Branches(1, 4)});
  for (int32_t i = 0; i < 6; ++i)
    request.nodes.push_back({"verdict" + std::to_string(i), 1, GivenSpec{{i}, true, 2}});
  for (int repeat = 0; repeat < 2; ++repeat) {
    const uint64_t id = harness.Submit(request);
    harness.RunUntilIdle();
    REQUIRE(harness.problem().empty());
    CHECK(harness.Compare(id).empty());
    // 41 or 1 of the prompt, 3 of the thought, its last token once for each verdict.
    CHECK(harness.finished(id).usage.computed_tokens <= (repeat == 0 ? 41 : 1) + 3 + 6 + 1);
  }
}

TEST_CASE("a preempted request goes on where it was") {
  HarnessOptions options = LargePool();
  options.runner.total_blocks = 40;
  SchedulerHarness harness(options);
  const uint64_t older = harness.Submit(FewShot(20, 4, 24, 1));
  const uint64_t younger = harness.Submit(FewShot(20, 4, 24, 2));
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.scheduler().Stats().preemptions > 0);
  CHECK(harness.Compare(older).empty());
  CHECK(harness.Compare(younger).empty());
}

TEST_CASE("a bypassing request neither finds nor leaves a prefix") {
  SchedulerHarness harness(LargePool());
  harness.Submit(FewShot(40, 1, 1));
  harness.RunUntilIdle();
  const int32_t indexed = harness.scheduler().Stats().blocks_indexed;
  CHECK(indexed == 10);
  TreeRequest request = FewShot(40, 1, 1);
  request.cache_bypass = true;
  const uint64_t id = harness.Submit(request);
  harness.RunUntilIdle();
  CHECK(harness.finished(id).usage.cached_tokens == 0);
  CHECK(harness.scheduler().Stats().blocks_indexed == indexed);
  request = FewShot(40, 1, 1);
  request.cache_namespace = "someone else";
  const uint64_t other = harness.Submit(request);
  harness.RunUntilIdle();
  CHECK(harness.finished(other).usage.cached_tokens == 0);
}

TEST_CASE("no more rows than a step may hold") {
  HarnessOptions options = LargePool();
  options.max_batch_rows = 16;
  options.prefill_chunk_tokens = 12;
  SchedulerHarness harness(options);
  harness.Submit(FewShot(50, 30, 4, 1));
  harness.Submit(FewShot(50, 30, 4, 2));
  int32_t max = 0;
  while (harness.Step()) {
    CHECK(harness.last_issued()->batch.rows() <= 16);
    max = std::max(max, RowsAt(*harness.last_issued(), 50));
  }
  CHECK(max > 8);
  CHECK(harness.problem().empty());
}

}  // namespace
}  // namespace espalier
