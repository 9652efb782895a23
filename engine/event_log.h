#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/scheduled_request.h"
#include "engine/tree_event.h"

namespace espalier {

struct RequestEvent {
  RequestEvent(uint64_t id, TreeEvent happened) : request_id(id), event(std::move(happened)) {}

  uint64_t request_id = 0;
  TreeEvent event;
};

// What has happened and was not taken yet, and what the branches of each request have gained in the step
// being committed. Not thread-safe.
class EventLog {
 public:
  void Emit(uint64_t id, TreeEvent event) { events_.emplace_back(id, std::move(event)); }
  // Events since the last call, in order.
  std::vector<RequestEvent> TakeEvents() { return std::exchange(events_, {}); }

  // The request has something to report, or to do, by the next time that it is finalized.
  void Touch(ScheduledRequest* request);
  // Those requests, in the order in which they were touched first; each stays touched until Untouch.
  std::vector<uint64_t> TakeTouched() { return std::exchange(touched_, {}); }
  void KeepTouched(uint64_t id) { touched_.push_back(id); }
  static void Untouch(ScheduledRequest* request) { request->report.touched_ = false; }

  // Where what the branch has gained is added. Touches the request. Valid until the next call.
  BranchDelta* DeltaOf(ScheduledRequest* request, const Branch& branch);
  // All of a given branch at once.
  void ReportGiven(ScheduledRequest* request, const Branch& branch);
  // Emits what the branches have gained, by number, if anything.
  void FlushDeltas(ScheduledRequest* request, uint64_t step_id);

 private:
  std::vector<RequestEvent> events_;
  std::vector<uint64_t> touched_;
};

}  // namespace espalier
