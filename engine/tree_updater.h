#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/event_log.h"
#include "engine/request_table.h"
#include "engine/scheduling_policy.h"
#include "engine/sequence_slots.h"
#include "engine/step_record.h"
#include "engine/tail_nodes.h"
#include "engine/usage_meter.h"

namespace espalier {

// What comes of steps: tokens and scores go to their trees, trees grow, and events go out. Ends requests. Not
// thread-safe.
class TreeUpdater {
 public:
  // All outlive this.
  TreeUpdater(const SchedulingPolicy& policy, RequestTable* requests, TailNodes* tails, SequenceSlots* slots,
              UsageMeter* usage, EventLog* events)
      : policy_(policy),
        requests_(*requests),
        tails_(*tails),
        sequence_slots_(*slots),
        usage_(*usage),
        events_(*events) {}

  // Creates the request's first branches.
  void Start(ScheduledRequest* request);

  // Takes the results of a step. Requests that have ended meanwhile are passed over.
  void Commit(const StepRecord& record, const StepResult& result);

  // `committed`: the results of step_id have just been taken. Else before a step is planned: what has ended,
  // or has more barriers to resolve, goes on; all else is reported with the next commit.
  void FinalizeTouched(uint64_t step_id, bool committed);
  // A tree has barriers left to resolve.
  bool expanding() const { return expanding_; }

  // The client asks for nothing more: a tree that waits for it ends.
  void Close(ScheduledRequest* request);

  // Releases all that the request holds. Steps in flight may still compute for it: their results find no
  // request, and its blocks retire after them. Returns what owns the request.
  std::shared_ptr<ScheduledRequest> End(ScheduledRequest* request);
  // The same, with an error as its last event.
  void Abort(ScheduledRequest* request, const Error& reason);

 private:
  void CommitUsage(const StepRecord& record);
  void CommitPrefills(const StepRecord& record);
  void CommitSamples(const StepRecord& record, const StepResult& result);
  void TakeToken(ScheduledRequest* request, Sequence* sequence, const TokenResult& token);
  void CommitScores(const StepRecord& record, const StepResult& result);
  void CommitReads(const StepRecord& record);
  void NoteCreated(ScheduledRequest* request, const std::vector<int32_t>& created);
  void Finalize(ScheduledRequest* request, uint64_t step_id, bool committed);
  void Finish(ScheduledRequest* request);
  void Suspend(ScheduledRequest* request);

  const SchedulingPolicy& policy_;
  RequestTable& requests_;
  TailNodes& tails_;
  SequenceSlots& sequence_slots_;
  UsageMeter& usage_;
  EventLog& events_;
  bool expanding_ = false;
};

}  // namespace espalier
