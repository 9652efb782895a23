// The fake device must notice what it is there to notice.
#include <functional>
#include <string>
#include <vector>

#include "tests/engine/fakes/scheduler_harness.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using test::FakeDevice;
using test::HarnessOptions;
using test::SchedulerHarness;

// Two good steps: a prompt of six tokens in blocks of four, then three branches that copy its tail.
std::vector<StepInput> GoodSteps(const HarnessOptions& options) {
  SchedulerHarness harness(options);
  TreeRequest request;
  GenerateSpec generate;
  generate.branches = 3;
  generate.ignore_eos = true;
  request.nodes = {{"prompt", -1, GivenSpec{{5, 6, 7, 8, 9, 10}}}, {"answer", 0, generate}};
  harness.Submit(request);
  std::vector<StepInput> steps;
  for (int32_t i = 0; i < 2; ++i) {
    REQUIRE(harness.Issue());
    steps.push_back(*harness.last_issued());
    REQUIRE(harness.Commit());
  }
  return steps;
}

std::string ProblemAfter(const std::function<void(std::vector<StepInput>&)>& damage) {
  const HarnessOptions options;
  std::vector<StepInput> steps = GoodSteps(options);
  damage(steps);
  FakeDevice device(options.runner.model, options.runner.total_blocks, options.runner.block_tokens,
                    options.runner.max_rows);
  for (const StepInput& step : steps) device.Execute(step);
  return device.problem();
}

TEST_CASE("good steps have no problem") {
  CHECK(ProblemAfter([](std::vector<StepInput>&) {}).empty());
}

TEST_CASE("damaged steps are noticed") {
  using Steps = std::vector<StepInput>;
  CHECK_FALSE(ProblemAfter([](Steps& s) { s[0].zero_blocks.pop_back(); }).empty());
  CHECK_FALSE(ProblemAfter([](Steps& s) { s[1].zero_blocks.clear(); }).empty());
  CHECK_FALSE(ProblemAfter([](Steps& s) { s[1].copies.pop_back(); }).empty());
  CHECK_FALSE(ProblemAfter([](Steps& s) { --s[1].copies[0].tokens; }).empty());
  CHECK_FALSE(ProblemAfter([](Steps& s) { s[1].copies[0].source = 0; }).empty());
  CHECK_FALSE(ProblemAfter([](Steps& s) {
                s[1].plan.entries.pop_back();
                --s[1].plan.segments.back().entries;
              }).empty());
  CHECK_FALSE(ProblemAfter([](Steps& s) { ++s[1].plan.entries[0].position; }).empty());
  CHECK_FALSE(ProblemAfter([](Steps& s) { ++s[1].samples[0].position; }).empty());
  CHECK_FALSE(ProblemAfter([](Steps& s) { s[1].tokens[0] = {.token_id = -1, .sequence_slot = 77}; }).empty());
  CHECK_FALSE(ProblemAfter([](Steps& s) { std::swap(s[0], s[1]); }).empty());
}

TEST_CASE("a read of a freed block is noticed") {
  const HarnessOptions options;
  const std::vector<StepInput> steps = GoodSteps(options);
  FakeDevice device(options.runner.model, options.runner.total_blocks, options.runner.block_tokens,
                    options.runner.max_rows);
  device.Execute(steps[0]);
  device.Poison(std::vector<int32_t>{steps[0].zero_blocks.front()});
  device.Execute(steps[1]);
  CHECK_FALSE(device.problem().empty());
}

}  // namespace
}  // namespace espalier
