// How prefill is shared out by time: with a given table of step costs, nothing is measured here.
#include <algorithm>
#include <vector>

#include "engine/prefill_budget.h"
#include "engine/row_shares.h"
#include "engine/step_costs.h"
#include "tests/engine/fakes/scheduler_harness.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using test::HarnessOptions;
using test::SchedulerHarness;

// A device that reads its weights, computes rows, and reads KV.
double DeviceUs(const StepLoad& load) {
  return 5'000.0 + 200.0 * static_cast<double>(load.rows) + 2.0 * static_cast<double>(load.visible_tokens);
}

// The table that has measured it at every load of a grid.
StepCosts Measured() {
  StepCosts costs;
  for (int64_t rows = 1; rows <= 1024; rows *= 2) {
    for (int64_t visible = 1; visible <= int64_t{1} << 22; visible *= 2)
      costs.Add({rows, visible}, DeviceUs({rows, visible}));
  }
  return costs;
}

TEST_CASE("a load is its rows and what each of them sees") {
  CHECK(StepLoad::Of(1, 0) == StepLoad{1, 1});
  CHECK(StepLoad::Of(3, 10) == StepLoad{3, 11 + 12 + 13});
  CHECK(StepLoad::Of(0, 10) == StepLoad{});
  StepInput step;
  step.batch.row_node = {0, 0, 1};
  step.batch.row_position = {4, 5, 0};
  CHECK(LoadOf(step) == StepLoad{3, 5 + 6 + 1});
}

TEST_CASE("the table gives what was measured, and bounds what was not") {
  StepCosts costs;
  CHECK(costs.empty());
  costs.Add({8, 1000}, 100.0);
  CHECK(costs.Estimate({8, 1000}) == 100.0);
  CHECK(costs.Estimate({1, 10}) == 100.0);     // no more than that
  CHECK(costs.Estimate({16, 1000}) == 200.0);  // no worse than in proportion
  CHECK(costs.Estimate({16, 4000}) == 400.0);
  costs.Add({16, 1000}, 120.0);
  CHECK(costs.Estimate({16, 1000}) == 120.0);
  CHECK(costs.Estimate({32, 1000}) == 240.0);  // from what is nearer
  costs.Add({64, 1000}, 900.0);
  CHECK(costs.Estimate({64, 1000}) == 900.0);  // measured, though more than in proportion
  for (int i = 0; i < 100; ++i) costs.Add({8, 1000}, 200.0);
  CHECK(costs.Estimate({8, 1000}) > 199.0);  // recent steps count
}

TEST_CASE("a budget without costs counts rows") {
  PrefillBudget budget(100, nullptr, {}, 0.0);
  CHECK(budget.RowsFor(7, 1'000'000) == 7);
  CHECK(budget.Charge(1'000'000, 7) == 7);
  CHECK(budget.units_left() == 93);
  CHECK_FALSE(budget.limits_time());
}

TEST_CASE("a budget with costs keeps a step within its length, however its rows are chosen") {
  const StepCosts costs = Measured();
  const StepLoad decoding = StepLoad::Of(1, 500);
  const double base_us = costs.Estimate(decoding);
  for (const int32_t position : {0, 1000, 30'000}) {
    PrefillBudget budget(256, &costs, decoding, 2 * base_us);
    StepLoad load = decoding;
    while (true) {  // a part at a time
      const int32_t rows = budget.RowsFor(std::min(budget.units_left(), 128), position);
      if (rows == 0) break;
      budget.Charge(position, rows);
      load += StepLoad::Of(rows, position);
    }
    CAPTURE(position, load.rows);
    CHECK(costs.Estimate(load) <= 3.0 * base_us * 1.001);
    if (position <= 1000) CHECK(load.rows > 1);
  }
}

TEST_CASE("of those that share, one whose next row costs too much holds up no other") {
  std::vector<int32_t> taken(3);
  const Taken all = ShareOut({0, 0, 0}, 40, 0.25, [&](size_t i, int32_t max) {
    if (i == 0) return Taken{0, true};  // can afford nothing
    const int32_t units = std::min(max, 6 - taken[i]);
    taken[i] += units;
    return Taken{units, taken[i] < 6};
  });
  CHECK(all.units == 12);
  CHECK(all.wants_more);
  CHECK(taken == std::vector<int32_t>{0, 6, 6});
}

TreeRequest Prompt(int32_t tokens, int32_t branches, int32_t new_tokens, int32_t first_token) {
  TreeRequest request;
  GivenSpec given;
  for (int32_t i = 0; i < tokens; ++i) given.token_ids.push_back((first_token + i * 7) % 31);
  GenerateSpec generate;
  generate.branches = branches;
  generate.max_new_tokens = new_tokens;
  generate.ignore_eos = true;
  request.nodes = {{"prompt", -1, given}, {"answer", 0, generate}};
  return request;
}

// How many times as long as its decoding rows alone, those that sample, a step takes.
double Ratio(const StepInput& step) {
  StepLoad decoding;
  for (const int32_t row : step.logit_rows)
    decoding += StepLoad::Of(1, step.batch.row_position[static_cast<size_t>(row)]);
  return DeviceUs(LoadOf(step)) / DeviceUs(decoding);
}

HarnessOptions LongPaths(const StepCosts* costs) {
  HarnessOptions options;
  options.runner.total_blocks = 4096;
  options.runner.block_tokens = 16;
  options.runner.max_positions = 40'000;
  options.runner.max_rows = 512;
  options.runner.steps_in_flight = 1;
  options.max_branches = 64;
  options.max_batch_rows = 512;
  options.prefill_chunk_tokens = 256;
  options.policy.step_costs = costs;
  options.policy.free_step_us = 0.0;
  return options;
}

TEST_CASE("next to a long prompt steps stay within their length, and a short prompt behind it comes soon") {
  constexpr int32_t kBranches = 50;
  constexpr int32_t kLong = 2'500;
  const StepCosts costs = Measured();
  SchedulerHarness harness(LongPaths(&costs));
  const uint64_t decoding = harness.Submit(Prompt(40, kBranches, 600, 0));
  for (int32_t i = 0; i < 4; ++i) harness.Step();
  const uint64_t longer = harness.Submit(Prompt(kLong, 1, 1, 3));
  for (int32_t i = 0; i < 30; ++i) harness.Step();  // well into the long prompt
  const uint64_t shorter = harness.Submit(Prompt(20, 1, 1, 5));
  int32_t steps = 0;
  double worst = 0.0;
  int32_t steps_to_short = 0;
  while (!harness.ended(longer) && harness.problem().empty()) {
    REQUIRE(harness.Step());
    ++steps;
    worst = std::max(worst, Ratio(*harness.last_issued()));
    if (steps_to_short == 0 && harness.ended(shorter)) steps_to_short = steps;
    REQUIRE(harness.last_issued()->samples.size() >= kBranches);  // none of those that read is held up
  }
  CHECK(worst > 1.5);  // what may be taken is taken
  CHECK(worst <= 3.0);
  CHECK(steps_to_short > 0);
  CHECK(steps_to_short <= 10);
  harness.Cancel(decoding);
  harness.RunUntilIdle();
  REQUIRE(harness.problem().empty());
  CHECK(harness.Compare(longer) == "");
  CHECK(harness.Compare(shorter) == "");
}

TEST_CASE("without a table of costs the same long prompt makes steps many times as long") {
  SchedulerHarness harness(LongPaths(nullptr));
  const uint64_t decoding = harness.Submit(Prompt(40, 50, 100, 0));
  for (int32_t i = 0; i < 4; ++i) harness.Step();
  const uint64_t longer = harness.Submit(Prompt(6'000, 1, 1, 3));
  double worst = 0.0;
  while (!harness.ended(longer) && harness.Step()) worst = std::max(worst, Ratio(*harness.last_issued()));
  CHECK(worst > 20.0);
  harness.Cancel(decoding);
  CHECK(harness.problem().empty());
}

TEST_CASE("where every row takes more time than there is, prefill goes on by a row a step") {
  StepCosts costs;
  costs.Add({1, 1}, 1.0);
  costs.Add({2, 1}, 1e6);
  HarnessOptions options = LongPaths(&costs);
  SchedulerHarness harness(options);
  const uint64_t decoding = harness.Submit(Prompt(1, 1, 60, 0));
  harness.Step();
  const uint64_t behind = harness.Submit(Prompt(20, 1, 1, 3));
  int32_t steps = 0;
  while (!harness.ended(behind) && harness.Step()) ++steps;
  CHECK(harness.problem().empty());
  CHECK(harness.ended(behind));
  CHECK(steps <= 25);
  CHECK_FALSE(harness.ended(decoding));
}

}  // namespace
}  // namespace espalier
