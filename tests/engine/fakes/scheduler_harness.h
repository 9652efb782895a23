#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "tests/engine/fakes/fake_runner.h"
#include "tests/engine/fakes/naive_tree.h"

namespace espalier::test {

struct HarnessOptions {
  FakeRunnerOptions runner;
  int32_t max_branches = 64;
  int32_t max_batch_rows = 32;  // at most runner.max_rows
  int32_t prefill_chunk_tokens = 12;
  AttentionMode attention_mode = AttentionMode::kFlatten;
  uint64_t shuffle_seed = 0;
  bool with_text = true;
  SchedulingPolicy policy;
};

// A scheduler and a fake runner, driven by hand: what the engine's thread does, one call at a time. After
// each call everything that can be proved is checked: the scheduler's own invariants, the sums of blocks,
// batch and plan of each step; blocks that the allocator calls free are poisoned.
class SchedulerHarness {
 public:
  explicit SchedulerHarness(const HarnessOptions& options);

  EngineLimits limits() const;
  const FakeModel& model() const { return model_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  Scheduler& scheduler() { return *scheduler_; }
  FakeRunner& runner() { return *runner_; }

  uint64_t Submit(TreeRequest request);
  void SubmitAs(uint64_t id, TreeRequest request);
  void Close(uint64_t id);
  void Cancel(uint64_t id);
  int32_t Flush();
  bool Issue();   // one step; false: there is none
  bool Commit();  // the oldest step; false: none in flight
  // Issues what can be in flight, then commits one step. False: there was nothing to do.
  bool Step();
  void RunUntilIdle();

  // Steps issued and not yet committed, and the one issued last.
  const std::shared_ptr<const StepInput>& last_issued() const { return last_issued_; }

  bool ended(uint64_t id) const;  // its last event is there
  const std::vector<TreeEvent>& events(uint64_t id) const { return requests_.at(id).events; }
  const TreeRequest& request(uint64_t id) const { return requests_.at(id).request; }
  const TreeFinished& finished(uint64_t id) const;  // precondition: finished well
  std::vector<RequestEvent> TakeNewEvents() { return std::exchange(new_events_, {}); }

  // The first difference between what a finished request gave and what it must give; empty: none.
  std::string Compare(uint64_t id) const;
  void Forget(uint64_t id) { requests_.erase(id); }

  // What was wrong first; empty: nothing.
  const std::string& problem() const { return problem_; }

 private:
  struct Request {
    TreeRequest request;
    std::vector<TreeEvent> events;
  };

  void AfterCall();
  void CheckStep(const StepInput& step);
  void Report(const std::string& problem);

  HarnessOptions options_;
  PlanOptions plan_;
  FakeModel model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<FakeRunner> runner_;
  std::unique_ptr<Scheduler> scheduler_;
  std::shared_ptr<const StepInput> last_issued_;
  std::map<uint64_t, Request> requests_;
  std::vector<RequestEvent> new_events_;
  uint64_t next_id_ = 1;
  std::string problem_;
};

}  // namespace espalier::test
