// Random operations on a scheduler with a pool so small that eviction, waiting and preemption are common.
// After each operation every block is accounted for; every request that finishes gave exactly what the naive
// oracle computes without cache, blocks, batches or steps.
#include <cstdlib>
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

struct Totals {
  int64_t finished = 0;
  int64_t cancelled = 0;
  int64_t cached_tokens = 0;
  int64_t preemptions = 0;
  int64_t evicted_blocks = 0;
  int64_t copies = 0;
  int64_t selections = 0;
  int64_t failed = 0;  // branches
};

class RandomOperations {
 public:
  RandomOperations(uint64_t seed, const HarnessOptions& options, uint64_t peers)
      : random_(seed), with_text_(options.with_text), peers_(peers), harness_(options) {}

  // The first problem; empty: none.
  std::string Run(int32_t operations) {
    for (int32_t i = 0; i < operations && harness_.problem().empty() && problem_.empty(); ++i) {
      Operate();
      Collect();
    }
    if (harness_.problem().empty() && problem_.empty()) WindDown();
    return harness_.problem().empty() ? problem_ : harness_.problem();
  }

  Totals totals() {
    const EngineStats stats = harness_.scheduler().Stats();
    totals_.preemptions = stats.preemptions;
    totals_.evicted_blocks = stats.evicted_blocks;
    totals_.copies =
        harness_.runner().device()->With([](test::FakeDevice& device) { return device.copies(); });
    return totals_;
  }

 private:
  void Operate() {
    const uint64_t kind = random_() % 100;
    if (kind < 10) {
      if (running_.size() >= 10) return;
      TreeRequest request = test::RandomRequest(&random_, harness_.limits(), with_text_);
      request.peer = std::to_string(random_() % peers_);
      running_.push_back(harness_.Submit(std::move(request)));
    } else if (kind < 12) {
      if (running_.empty()) return;
      harness_.Cancel(running_[random_() % running_.size()]);
    } else if (kind < 13) {
      if (random_() % 2 == 0) {
        harness_.Flush();
      } else if (peers_ > 1) {
        harness_.scheduler().SetUnread(std::to_string(random_() % peers_),
                                       static_cast<int32_t>(random_() % 3));
      }
    } else if (kind < 55) {
      harness_.Issue();
    } else {
      harness_.Commit();
    }
  }

  // Takes what has ended off the list, and compares it.
  void Collect() {
    for (size_t i = 0; i < running_.size();) {
      const uint64_t id = running_[i];
      if (!harness_.ended(id)) {
        ++i;
        continue;
      }
      running_.erase(running_.begin() + static_cast<int64_t>(i));
      if (const auto* error = std::get_if<Error>(&harness_.events(id).back())) {
        if (error->code != ErrorCode::kCancelled) problem_ = "request ended with " + error->ToString();
        ++totals_.cancelled;
      } else {
        const std::string difference = harness_.Compare(id);
        if (!difference.empty()) problem_ = "request " + std::to_string(id) + ": " + difference;
        ++totals_.finished;
        totals_.cached_tokens += harness_.finished(id).usage.cached_tokens;
        for (const BranchSummary& branch : harness_.finished(id).branches)
          totals_.failed += branch.finish_reason == FinishReason::kError ? 1 : 0;
        for (const auto& event : harness_.events(id)) {
          totals_.selections += std::holds_alternative<TreeSelected>(event) ? 1 : 0;
        }
      }
      harness_.Forget(id);
    }
  }

  void WindDown() {
    harness_.RunUntilIdle();
    Collect();
    if (!running_.empty() && problem_.empty()) problem_ = "a request never ended";
    EngineStats stats = harness_.scheduler().Stats();
    if (stats.blocks_live != 0 || stats.requests_active != 0) problem_ = "blocks are live when idle";
    harness_.Flush();
    stats = harness_.scheduler().Stats();
    if (stats.blocks_free != stats.blocks_total) problem_ = "blocks are left after a flush";
  }

  std::mt19937_64 random_;
  const bool with_text_;
  const uint64_t peers_;
  SchedulerHarness harness_;
  std::vector<uint64_t> running_;
  std::string problem_;
  Totals totals_;
};

HarnessOptions SmallPool(int32_t steps_in_flight) {
  HarnessOptions options;
  options.runner.total_blocks = 48;
  options.runner.block_tokens = 4;
  options.runner.max_positions = 120;
  options.runner.steps_in_flight = steps_in_flight;
  options.max_branches = 24;
  return options;
}

// ESPALIER_TEST_SEED repeats a failing piece.
uint64_t FirstSeed() {
  const char* seed = std::getenv("ESPALIER_TEST_SEED");
  return seed == nullptr ? std::random_device{}() : std::strtoull(seed, nullptr, 10);
}

// One scenario in pieces of a fresh scheduler each, so that a failing seed is quick to repeat.
Totals RunRandom(const HarnessOptions& options, int32_t pieces, int32_t operations, uint64_t peers = 1) {
  const uint64_t first_seed = FirstSeed();
  Totals all;
  for (int32_t piece = 0; piece < pieces; ++piece) {
    const uint64_t seed = first_seed + static_cast<uint64_t>(piece);
    CAPTURE(seed, options.runner.steps_in_flight, options.shuffle_seed);
    RandomOperations run(seed, options, peers);
    const std::string problem = run.Run(operations);
    if (!problem.empty()) FAIL(problem);
    const Totals totals = run.totals();
    all.finished += totals.finished;
    all.cancelled += totals.cancelled;
    all.cached_tokens += totals.cached_tokens;
    all.preemptions += totals.preemptions;
    all.evicted_blocks += totals.evicted_blocks;
    all.copies += totals.copies;
    all.selections += totals.selections;
    all.failed += totals.failed;
  }
  CHECK(all.finished > operations * pieces / 200);
  return all;
}

// A scenario is worth something only if all of this happened.
void CheckEverythingHappened(const Totals& totals) {
  CHECK(totals.cancelled > 0);
  CHECK(totals.cached_tokens > 0);
  CHECK(totals.preemptions > 0);
  CHECK(totals.evicted_blocks > 0);
  CHECK(totals.copies > 0);
  CHECK(totals.selections > 0);
}

TEST_CASE("50,000 random operations, one step at a time: blocks add up, answers are the oracle's") {
  CheckEverythingHappened(RunRandom(SmallPool(1), 25, 2000));
}

TEST_CASE("50,000 random operations, two steps in flight: blocks add up, answers are the oracle's") {
  CheckEverythingHappened(RunRandom(SmallPool(2), 25, 2000));
}

TEST_CASE("random operations of several peers give the oracle's answers, and every request ends") {
  for (const uint64_t peers : {2, 3, 8}) {
    if (test::kSanitized && peers != 3) continue;
    CAPTURE(peers);
    CheckEverythingHappened(RunRandom(SmallPool(1), 8, 2000, peers));
    CheckEverythingHappened(RunRandom(SmallPool(2), 8, 2000, peers));
    HarnessOptions options = SmallPool(2);
    options.runner.total_blocks = 16;
    RunRandom(options, 4, 2000, peers);
    options.runner.steps_in_flight = 1;
    RunRandom(options, 4, 2000, peers);
  }
}

// Two peers took from each other, step after step, the block that the oldest request had made them give up.
TEST_CASE("the oldest request goes on where younger ones of other peers may claim blocks") {
  HarnessOptions options = SmallPool(2);
  options.runner.total_blocks = 16;
  CHECK(RandomOperations(140133080, options, 8).Run(2000).empty());
}

TEST_CASE("random operations in a pool that holds little more than one path give the oracle's answers") {
  HarnessOptions options = SmallPool(1);
  options.runner.total_blocks = 16;
  RunRandom(options, 4, 2000);
  options.runner.steps_in_flight = 2;
  RunRandom(options, 4, 2000);
}

TEST_CASE("branches whose logits are not finite end with an error, and all else goes on as the oracle says") {
  HarnessOptions options = SmallPool(1);
  options.runner.model.error_probability = 0.03;
  const Totals one = RunRandom(options, 4, 2000);
  options.runner.steps_in_flight = 2;
  options.with_text = false;
  const Totals two = RunRandom(options, 4, 2000);
  for (const Totals& totals : {one, two}) {
    CHECK(totals.failed > 20);
    CHECK(totals.selections > 0);
  }
  CHECK(one.preemptions + two.preemptions > 0);  // about one in 200 of each has none
}

TEST_CASE("random operations with shuffled rows and the plan of sequences give the oracle's answers") {
  HarnessOptions options = SmallPool(2);
  options.shuffle_seed = 99;
  RunRandom(options, 3, 2000);
  options.attention_mode = AttentionMode::kSequence;
  options.with_text = false;
  RunRandom(options, 3, 2000);
}

}  // namespace
}  // namespace espalier
