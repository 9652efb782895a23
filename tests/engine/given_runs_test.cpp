// What is computed for given nodes: each token of the trie that they form once, whatever is cached.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/fakes/random_request.h"
#include "tests/engine/fakes/scheduler_harness.h"
#include "tests/support/catch.h"
#include "tests/support/sanitized.h"

namespace espalier {
namespace {

using test::HarnessOptions;
using test::SchedulerHarness;

using Tokens = std::vector<int32_t>;

HarnessOptions LargePool(int32_t block_tokens, int32_t steps_in_flight = 1) {
  HarnessOptions options;
  options.runner.total_blocks = 8192;
  options.runner.block_tokens = block_tokens;
  options.runner.max_positions = 2048;
  options.runner.max_rows = 512;
  options.runner.steps_in_flight = steps_in_flight;
  options.max_branches = 2048;
  options.max_batch_rows = 512;
  options.prefill_chunk_tokens = 512;
  return options;
}

Tokens Text(int32_t tokens, int32_t first) {
  Tokens text;
  for (int32_t i = 0; i < tokens; ++i) text.push_back((first + i * 7 + i / 31) % 31);
  return text;
}

TreeRequest Score(const Tokens& prompt, const std::vector<Tokens>& continuations) {
  TreeRequest request;
  request.nodes.push_back({"prompt", -1, GivenSpec{prompt}});
  for (const Tokens& tokens : continuations)
    request.nodes.push_back({"c" + std::to_string(request.nodes.size()), 0, GivenSpec{tokens, true, 1}});
  return request;
}

int64_t Rows(const SchedulerHarness& harness, const TreeRequest& request) {
  const auto number = [](const test::NaiveResult&, int32_t index) { return index; };
  return NaiveRows(request, RunNaiveTree(request, harness.model(), harness.tokenizer(), number));
}

TreeUsage Run(SchedulerHarness* harness, const TreeRequest& request) {
  const uint64_t id = harness->Submit(request);
  harness->RunUntilIdle();
  REQUIRE(harness->problem().empty());
  REQUIRE(harness->Compare(id).empty());
  return harness->finished(id).usage;
}

// Continuations by what they have in common.
std::vector<std::vector<Tokens>> Shapes() {
  std::vector<Tokens> apart;
  for (int32_t i = 0; i < 25; ++i) apart.push_back(Text(5, i));
  const Tokens a = Text(40, 3);
  std::vector<Tokens> prefixes;
  for (const int32_t length : {1, 2, 15, 16, 17, 18, 33, 40})
    prefixes.emplace_back(a.begin(), a.begin() + length);
  std::vector<Tokens> comb;  // each leaves the long one somewhere else
  for (int32_t i = 0; i < 20; ++i) {
    comb.emplace_back(a.begin(), a.begin() + i);
    comb.back().push_back((a[static_cast<size_t>(i)] + 1) % 31);
    comb.back().push_back(9);
  }
  comb.push_back(a);
  std::vector<Tokens> single;
  for (int32_t i = 0; i < 31; ++i) single.push_back({i});
  return {{{5}},     {{5}, {5}, {5}}, {a},
          {a, a, a}, apart,           prefixes,
          comb,      single,          {{1, 2}, {1, 2, 3}, {1}, {2, 1}, {1, 2}}};
}

TEST_CASE("100 continuations of 5 tokens on a prompt of 16 compute 416 tokens") {
  SchedulerHarness harness(LargePool(16));
  std::vector<Tokens> continuations;
  for (int32_t i = 0; i < 100; ++i) {
    continuations.push_back(Text(5, i % 31));
    continuations.back()[0] = i % 31;
    continuations.back()[1] = i / 31;
    if (i / 31 == 0) continuations.back()[0] = i;
  }
  // 31 first tokens, each with up to 4 second tokens: 31 + 3 * 100 below the prompt.
  const TreeUsage merged = Run(&harness, Score(Text(16, 1), continuations));
  CHECK(merged.distinct_tokens == 16 + 31 + 300);
  CHECK(merged.computed_tokens == merged.distinct_tokens);
  HarnessOptions options = LargePool(16);
  options.runner.model.vocab_size = 128;
  SchedulerHarness wide(options);
  for (int32_t i = 0; i < 100; ++i) continuations[static_cast<size_t>(i)][0] = i;
  for (int repeat = 0; repeat < 2; ++repeat) {
    const TreeUsage usage = Run(&wide, Score(Text(16, 1), continuations));
    CHECK(usage.distinct_tokens == 416);
    CHECK(usage.computed_tokens == 416);  // the prompt's only block has its last token
    CHECK(usage.prompt_tokens == 516);
    CHECK(usage.cached_tokens == 0);
  }
}

TEST_CASE(
    "given siblings compute each token of their trie once, in a cold cache, a warm one and without one") {
  for (const int32_t block : {4, 16}) {
    for (const int32_t in_flight : {1, 2}) {
      for (const int32_t prompt : {1, 2, 15, 16, 17, 31, 32, 33, 100}) {
        if (test::kSanitized && prompt > 17) continue;
        int shape = 0;
        for (const std::vector<Tokens>& continuations : Shapes()) {
          CAPTURE(block, in_flight, prompt, shape++);
          SchedulerHarness harness(LargePool(block, in_flight));
          TreeRequest request = Score(Text(prompt, 2), continuations);
          const int64_t rows = Rows(harness, request);
          const TreeUsage cold = Run(&harness, request);
          CHECK(cold.distinct_tokens == rows);
          CHECK(cold.computed_tokens == rows);
          CHECK(cold.cached_tokens == 0);
          const TreeUsage warm = Run(&harness, request);
          const int64_t cached = (prompt - 1) / block * block;
          CHECK(warm.distinct_tokens == rows);
          CHECK(warm.cached_tokens == cached);
          CHECK(warm.computed_tokens == rows - cached);
          request.cache_bypass = true;
          CHECK(Run(&harness, request).computed_tokens == rows);
          request.cache_bypass = false;
          request.cache_namespace = "elsewhere";
          CHECK(Run(&harness, request).computed_tokens == rows);
        }
      }
    }
  }
}

TEST_CASE("one row of the prompt scores the first token of every continuation") {
  SchedulerHarness harness(LargePool(16));
  std::vector<Tokens> continuations;
  for (int32_t i = 0; i < 31; ++i) continuations.push_back({i});
  const uint64_t id = harness.Submit(Score(Text(40, 1), continuations));
  REQUIRE(harness.Step());
  CHECK(harness.last_issued()->scores.size() == 31);
  CHECK(harness.last_issued()->logit_rows.size() == 1);
  CHECK(harness.last_issued()->batch.rows() == 40);
  CHECK(harness.ended(id));
}

GenerateSpec Branches(int32_t branches, int32_t max_new_tokens) {
  GenerateSpec generate;
  generate.branches = branches;
  generate.max_new_tokens = max_new_tokens;
  generate.ignore_eos = true;
  return generate;
}

TEST_CASE("given nodes of every kind share what they have in common, under the prompt and under branches") {
  for (const int32_t in_flight : {1, 2}) {
    SchedulerHarness harness(LargePool(16, in_flight));
    TreeRequest request;
    request.nodes = {{"prompt", -1, GivenSpec{Text(20, 1)}},
                     {"thought", 0, Branches(3, 6)},
                     {"a", 1, GivenSpec{{5, 6, 7}, true}},
                     {"a.yes", 2, GivenSpec{{8, 9}, true, 2}},
                     {"a.no", 2, GivenSpec{{8, 10, 11}}},
                     {"a.on", 2, Branches(2, 3)},
                     {"b", 1, GivenSpec{{5, 6}}},
                     {"b.on", 6, Branches(2, 3)},
                     {"b.c", 6, GivenSpec{{7, 8, 9, 1}, true}},
                     {"on", 1, Branches(2, 3)},
                     {"terminal", 1, GivenSpec{{5, 6, 7, 8}}},
                     {"side", 0, GivenSpec{Text(20, 9)}},
                     {"side.on", 11, Branches(2, 2)},
                     {"same", 0, GivenSpec{Text(20, 9)}},
                     {"same.on", 13, Branches(1, 2)}};
    const int64_t rows = Rows(harness, request);
    // The prompt, a side text, branches of 2 tokens there, three thoughts; after each of these 5 6 7 8, its
    // two ends 9 and 10 11, and six branches of which the last token's row is not run.
    CHECK(rows == 20 + 20 + 3 + 3 * (6 + 4 + 3 + 6 * 2));
    for (int repeat = 0; repeat < 2; ++repeat) {
      const TreeUsage usage = Run(&harness, request);
      CHECK(usage.distinct_tokens == rows);
      CHECK(usage.computed_tokens <= rows + (in_flight == 1 ? 0 : 3));
      if (repeat == 1) CHECK(usage.computed_tokens <= rows - 32 + 4);  // the prompt's last block again
      request.seed = 1;                                                // other thoughts
    }
  }
}

TEST_CASE("a deep chain of given nodes is one run") {
  SchedulerHarness harness(LargePool(16));
  TreeRequest request;
  request.nodes.push_back({"n0", -1, GivenSpec{Text(10, 1)}});
  for (int32_t i = 1; i <= 200; ++i)
    request.nodes.push_back({"n" + std::to_string(i), i - 1, GivenSpec{Text(1 + i % 3, i), i % 2 == 0}});
  const int64_t rows = Rows(harness, request);
  const TreeUsage usage = Run(&harness, request);
  CHECK(usage.distinct_tokens == rows);
  CHECK(usage.computed_tokens == rows);
  CHECK(usage.steps == 1);
}

TEST_CASE("what siblings share is found by other requests while it is computed, and afterwards") {
  SchedulerHarness harness(LargePool(16));
  TreeRequest request;
  request.nodes = {{"prompt", -1, GivenSpec{Text(21, 1)}},
                   {"long", 0, GivenSpec{Text(400, 2)}},
                   {"long.on", 1, Branches(1, 1)},
                   {"other", 0, GivenSpec{Text(300, 3)}},
                   {"other.on", 3, Branches(1, 1)}};
  const uint64_t first = harness.Submit(request);
  for (int i = 0; i < 2; ++i) REQUIRE(harness.Step());
  REQUIRE_FALSE(harness.ended(first));
  const uint64_t second = harness.Submit(request);
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.Compare(first).empty());
  CHECK(harness.Compare(second).empty());
  CHECK(harness.finished(first).usage.distinct_tokens == 721);
  // Of each of three texts what lies in its last, partly filled block.
  CHECK(harness.scheduler().Stats().computed_tokens <= 721 + 5 + 16 + 16);
  CHECK(Run(&harness, request).computed_tokens <= 5 + 16 + 16);
}

TEST_CASE("more continuations than fit into the pool are scored in waves") {
  for (const int32_t in_flight : {1, 2}) {
    HarnessOptions options = LargePool(4, in_flight);
    options.runner.total_blocks = 24;
    SchedulerHarness harness(options);
    std::vector<Tokens> continuations;
    for (int32_t i = 0; i < 300; ++i) continuations.push_back({i % 31, i / 31, 3, 4, 5, 6, 7});
    const TreeRequest request = Score(Text(30, 1), continuations);
    const int64_t rows = Rows(harness, request);
    const TreeUsage usage = Run(&harness, request);
    CHECK(usage.distinct_tokens == rows);
    CHECK(usage.computed_tokens <= rows * 3 / 2);
    CHECK(harness.scheduler().Stats().blocks_live == 0);
  }
}

TEST_CASE("random trees without selections compute no row twice") {
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  int64_t shared = 0;
  for (int i = 0; i < 400; ++i) {
    CAPTURE(i);
    HarnessOptions options = LargePool(i % 2 == 0 ? 4 : 16);
    options.runner.max_positions = 120;
    options.max_branches = 64;
    options.shuffle_seed = static_cast<uint64_t>(i % 3);
    SchedulerHarness harness(options);
    TreeRequest request;
    const auto selects = [](const TreeNodeSpec& node) {
      return std::holds_alternative<SelectSpec>(node.content);
    };
    do {
      request = test::RandomRequest(&random, harness.limits(), true);
    } while (std::any_of(request.nodes.begin(), request.nodes.end(), selects));
    request.cache_bypass = i % 2 == 0;
    const int64_t rows = Rows(harness, request);
    const TreeUsage usage = Run(&harness, request);
    CHECK(usage.distinct_tokens == rows);
    CHECK(usage.computed_tokens <= rows);  // branches that sampled the same tokens find each other's blocks
    const int32_t block = options.runner.block_tokens;
    const TreeUsage again = Run(&harness, request);
    CHECK(again.distinct_tokens == rows);
    if (request.cache_bypass) {
      CHECK(again.computed_tokens == usage.computed_tokens);
    } else {
      CHECK(again.computed_tokens <= rows);
      const auto prompt =
          static_cast<int32_t>(std::get<GivenSpec>(request.nodes[0].content).token_ids.size());
      CHECK(again.computed_tokens <= rows - (prompt - 1) / block * block);
    }
    shared += usage.prompt_tokens + usage.generated_tokens - rows;
  }
  CHECK(shared > 400);
}

}  // namespace
}  // namespace espalier
