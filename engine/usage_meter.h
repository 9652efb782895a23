#pragma once

#include <cstdint>

#include "engine/engine_stats.h"
#include "engine/scheduled_request.h"
#include "engine/step_record.h"

namespace espalier {

// Counts what requests, and all of them together, have taken. Not thread-safe.
class UsageMeter {
 public:
  void AddPrompt(ScheduledRequest* request, int32_t tokens) { request->usage.usage_.prompt_tokens += tokens; }
  void AddCached(ScheduledRequest* request, int32_t tokens);
  void AddComputed(ScheduledRequest* request, int32_t tokens);
  void AddGenerated(ScheduledRequest* request);
  void AddFinished() { ++totals_.finished; }
  void AddCancelled() { ++totals_.cancelled; }
  void AddStep() { ++totals_.steps; }
  void AddPlanning(int64_t us) { totals_.plan_us += us; }

  // A request's share of the bytes that a step has read is its share of what reading every row's own path
  // would take.
  void AddReads(const StepRecord& record);
  void AddReads(ScheduledRequest* request, const StepRecord& record, const StepRecord::Share& share);

  // All but the times.
  TreeUsage Of(const ScheduledRequest& request) const;
  // What is counted here is set, all else is left as it is.
  const EngineStats& totals() const { return totals_; }

 private:
  EngineStats totals_;
};

}  // namespace espalier
