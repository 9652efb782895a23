#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/scheduler.h"
#include "engine/tree_event.h"
#include "engine/tree_request.h"
#include "kernels/base/result.h"
#include "kernels/plan/attention_plan.h"
#include "model/model_runner.h"

namespace espalier::bench {

// One step of the engine, as a client would wait for it: planning, forward pass, commit, events.
struct StepSample {
  bool prefill = false;  // computes a prompt, together with rows that decode or alone
  int32_t rows = 0;
  int32_t logit_rows = 0;
  double step_us = 0.0;       // with more steps in flight: from the end of the step before
  double plan_us = 0.0;       // batch and attention plan
  double forward_us = 0.0;    // as the device saw it: on a GPU by its own events
  double attention_us = 0.0;  // part of it, the same way
  double outside_forward_us = 0.0;
  PlanAccounting accounting;
};

// A prompt of random tokens with `branches` branches of `new_tokens` tokens each, at temperature 1, not
// stopped by anything.
TreeRequest FanOut(int32_t prompt_tokens, int32_t branches, int32_t new_tokens, int32_t vocab, uint64_t seed);

// A scheduler over the whole of a runner's KV pool.
SchedulerOptions BenchScheduling(const ModelInfo& info, int32_t branches, int32_t max_rows,
                                 int32_t prefill_chunk_tokens, AttentionMode mode);

// The engine's loop around a scheduler of its own and a runner, for requests one after the other. Prefixes
// stay cached from one to the next.
class RequestLoop {
 public:
  // The runner outlives the loop; nothing else uses it or its KV pool meanwhile.
  RequestLoop(ModelRunner& runner, SchedulerOptions options);
  ~RequestLoop();

  void SetAttentionMode(AttentionMode mode);  // of the requests run from now on

  // Runs a request from start to end; a sample for each step. An error where a step fails or the request does
  // not end with all of its tokens; nothing can be run after it.
  Result<std::vector<StepSample>> Run(const TreeRequest& request);
  // Of the last request, which ended well.
  const TreeUsage& last_usage() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::bench
