// Scenarios larger than the random ones: long prompts, hundreds of branches.
#include <algorithm>
#include <string>
#include <vector>

#include "tests/engine/fakes/scheduler_harness.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using test::HarnessOptions;
using test::SchedulerHarness;

std::vector<int32_t> Prompt(int32_t tokens) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < tokens; ++i) prompt.push_back((i * 7 + i / 31) % 31);
  return prompt;
}

TreeRequest Request(int32_t prompt_tokens, int32_t branches, int32_t max_new_tokens, uint64_t seed) {
  TreeRequest request;
  request.seed = seed;
  GenerateSpec generate;
  generate.branches = branches;
  generate.max_new_tokens = max_new_tokens;
  request.nodes = {{"prompt", -1, GivenSpec{Prompt(prompt_tokens)}}, {"answer", 0, generate}};
  return request;
}

HarnessOptions Options(int32_t blocks, int32_t steps_in_flight) {
  HarnessOptions options;
  options.runner.total_blocks = blocks;
  options.runner.block_tokens = 16;
  options.runner.max_positions = 1100;
  options.runner.max_rows = 256;
  options.runner.steps_in_flight = steps_in_flight;
  options.max_branches = 1000;
  options.max_batch_rows = 256;
  options.prefill_chunk_tokens = 64;
  return options;
}

TEST_CASE("two equal prompts of 1000 tokens in flight together compute them once and one block") {
  for (int32_t in_flight = 1; in_flight <= 2; ++in_flight) {
    SchedulerHarness harness(Options(200, in_flight));
    const uint64_t first = harness.Submit(Request(1000, 1, 1, 1));
    const uint64_t second = harness.Submit(Request(1000, 1, 1, 2));
    harness.RunUntilIdle();
    REQUIRE(harness.problem().empty());
    CHECK(harness.Compare(first).empty());
    CHECK(harness.Compare(second).empty());
    const int64_t rows =
        harness.runner().device()->With([](const test::FakeDevice& device) { return device.rows(); });
    CHECK(rows <= 1000 + 16);
    const TreeUsage& one = harness.finished(first).usage;
    const TreeUsage& other = harness.finished(second).usage;
    CHECK(one.computed_tokens + other.computed_tokens == rows);
    CHECK(one.cached_tokens + other.cached_tokens + rows == 2000);
  }
}

TEST_CASE("1000 branches of one prompt run in waves in a pool that holds few of them") {
  for (int32_t in_flight = 1; in_flight <= 2; ++in_flight) {
    SchedulerHarness harness(Options(80, in_flight));
    const uint64_t id = harness.Submit(Request(300, 1000, 5, 3));
    harness.RunUntilIdle();
    REQUIRE(harness.problem().empty());
    CHECK(harness.Compare(id).empty());
    CHECK(harness.finished(id).branches.size() == 1000);
    CHECK(harness.scheduler().Stats().blocks_live == 0);
  }
}

TEST_CASE("200 branches that fit run side by side: one row each in every step after the prompt") {
  SchedulerHarness harness(Options(700, 1));
  const uint64_t id = harness.Submit(Request(40, 200, 6, 4));
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.Compare(id).empty());
  // The prompt's step samples every branch's first token; five more steps sample the rest.
  CHECK(harness.finished(id).usage.steps == 6);
}

TEST_CASE("branches decode in every step while a long prompt is read") {
  SchedulerHarness harness(Options(200, 1));
  const uint64_t decoding = harness.Submit(Request(20, 8, 12, 5));
  REQUIRE(harness.Step());
  harness.Submit(Request(1000, 1, 1, 6));
  int64_t steps = 1;
  for (; !harness.ended(decoding); ++steps) REQUIRE(harness.Step());
  CHECK(steps == 12);
  CHECK_FALSE(harness.scheduler().idle());
  harness.RunUntilIdle();
  CHECK(harness.problem().empty());
}

TEST_CASE("60000 selections at one barrier are resolved in order, and others get their steps in between") {
  SchedulerHarness harness(Options(200, 2));
  TreeRequest giant = Request(20, 16, 4, 8);
  for (int32_t i = 0; i < 60000; ++i) giant.nodes.push_back({"s" + std::to_string(i), 1, SelectSpec{}});
  TreeRequest beside_it = Request(20, 1, 1000, 9);
  std::get<GenerateSpec>(beside_it.nodes[1].content).ignore_eos = true;
  const uint64_t other = harness.Submit(beside_it);
  const uint64_t id = harness.Submit(giant);
  int32_t next_node = 2;
  size_t max_at_once = 0;
  bool progressed_each_time = true;
  while (!harness.ended(id) && harness.problem().empty()) {
    harness.TakeNewEvents();
    REQUIRE(harness.Step());
    size_t selected = 0;
    bool progressed = false;
    for (const RequestEvent& event : harness.TakeNewEvents()) {
      if (event.request_id == other) progressed = true;
      const auto* selection = std::get_if<TreeSelected>(&event.event);
      if (selection == nullptr) continue;
      ++selected;
      REQUIRE(selection->node == next_node++);
    }
    max_at_once = std::max(max_at_once, selected);
    if (selected > 0 && !progressed) progressed_each_time = false;
  }
  REQUIRE(harness.problem().empty());
  CHECK(next_node == 60002);
  CHECK(max_at_once < 2000);
  CHECK(progressed_each_time);
  CHECK(harness.Compare(id).empty());
}

TEST_CASE("a cancelled request gives its blocks back at once, or when its steps in flight have committed") {
  for (int32_t in_flight = 1; in_flight <= 2; ++in_flight) {
    SchedulerHarness harness(Options(200, in_flight));
    const uint64_t id = harness.Submit(Request(500, 20, 40, 7));
    for (int32_t i = 0; i < 12; ++i) REQUIRE(harness.Step());
    CHECK(harness.scheduler().Stats().blocks_live > 20);
    harness.Cancel(id);
    while (harness.Commit()) {
    }
    CHECK(harness.ended(id));
    CHECK(harness.scheduler().Stats().blocks_live == 0);
    harness.Flush();
    CHECK(harness.scheduler().Stats().blocks_free == 200);
    CHECK(harness.problem().empty());
  }
}

}  // namespace
}  // namespace espalier
