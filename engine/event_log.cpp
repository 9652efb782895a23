#include "engine/event_log.h"

#include <algorithm>

namespace espalier {

void EventLog::Touch(ScheduledRequest* request) {
  if (!std::exchange(request->report.touched_, true)) touched_.push_back(request->id());
}

BranchDelta* EventLog::DeltaOf(ScheduledRequest* request, const Branch& branch) {
  Touch(request);
  PendingReport& report = request->report;
  report.delta_of_.resize(static_cast<size_t>(request->tree.size()), -1);
  int32_t& index = report.delta_of_[static_cast<size_t>(branch.number)];
  if (index < 0) {
    index = static_cast<int32_t>(report.deltas_.size());
    BranchDelta& delta = report.deltas_.emplace_back();
    delta.branch = branch.number;
    delta.parent = branch.parent;
    delta.node = branch.node;
  }
  return &report.deltas_[static_cast<size_t>(index)];
}

void EventLog::ReportGiven(ScheduledRequest* request, const Branch& branch) {
  BranchDelta* delta = DeltaOf(request, branch);
  delta->token_ids = branch.tokens;
  delta->text = branch.text;
  delta->finish_reason = branch.reason;
  if (branch.reason == FinishReason::kError) return;
  for (const TokenResult& score : branch.scores) {
    delta->logprobs.push_back(score.logprob);
    if (request->tree.given(branch)->top_logprobs > 0) delta->top_logprobs.push_back(score.top_logprobs);
  }
}

void EventLog::FlushDeltas(ScheduledRequest* request, uint64_t step_id) {
  PendingReport& report = request->report;
  if (report.deltas_.empty()) return;
  TreeDelta delta{step_id, std::exchange(report.deltas_, {})};
  for (const BranchDelta& branch : delta.branches) report.delta_of_[static_cast<size_t>(branch.branch)] = -1;
  std::sort(delta.branches.begin(), delta.branches.end(),
            [](const BranchDelta& a, const BranchDelta& b) { return a.branch < b.branch; });
  Emit(request->id(), std::move(delta));
}

}  // namespace espalier
