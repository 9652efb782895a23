#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/request_table.h"
#include "engine/scheduling_policy.h"
#include "engine/tail_nodes.h"

namespace espalier {

// What gives way where blocks run out, within a request and between peers. A peer that holds less than an
// equal share of the pool may take blocks, up to its share, from those that hold more than theirs; and none
// that holds more may take what leaves another with less, whatever its request's precedence. One exception,
// so that something always goes on: the first request keeps one branch, and may take for it what it needs.
// Not thread-safe.
class MemoryPressure {
 public:
  // Both outlive this.
  MemoryPressure(const SchedulingPolicy& policy, RequestTable* requests, TailNodes* tails)
      : policy_(policy), requests_(*requests), tails_(*tails) {}

  void BeginStep() {
    idle_listed_ = false;
    preempted_from_.reset();
  }

  // Sees to it that `blocks` blocks are free for the sequence. In this order: evict cold prefixes; wait for
  // blocks that steps in flight still read; then others give way. False: not in this step; where the request
  // may take blocks from others, it comes first in the next. So does the first one that has had no row for a
  // while, and one that finds requests of lower priority in memory.
  bool MakeRoom(ScheduledRequest* request, const Sequence& sequence, int32_t blocks);

  // Whether the request's peer holds at most its share with so many blocks more.
  bool MayClaim(const ScheduledRequest& request, int32_t blocks);
  // Whether the peer's share has room for the request; what other requests of the peer were admitted for
  // counts as if they held it already.
  bool MayBeginByClaim(const ScheduledRequest& request);
  // Has others give way at once, before they have rows in the step being planned.
  void ClaimToBegin(ScheduledRequest* request);

  int64_t preemptions() const { return preemptions_; }
  // Requests and sequences that were looked at for one that could be preempted or parked: per step no more
  // than there are, and one for each time that room is sought.
  int64_t looked_at() const { return looked_at_; }

 private:
  bool HasLesserInMemory(const ScheduledRequest& request) const;
  bool TakeRoom(const ScheduledRequest& request, const Sequence& sequence, int32_t blocks);

  // Within peers (memory_pressure.cpp).
  void ListIdle();
  bool DropIdle(const ScheduledRequest& request, const Sequence& sequence, int32_t blocks);
  bool PreemptLater(const ScheduledRequest& request, int32_t blocks);
  void Preempt(ScheduledRequest* victim);
  bool ParkHigher(const ScheduledRequest& request, const Sequence& sequence);
  bool InStep(uint64_t last_step) const { return last_step == tails_.kv().current_step(); }

  // Between peers (memory_claims.cpp).
  int32_t ShareOf(const ScheduledRequest& request) const;
  bool IsProtected(const ScheduledRequest& holder, const ScheduledRequest& from, int32_t blocks);
  bool ClaimBlocks(const ScheduledRequest& request, int32_t blocks);
  bool DropIdleOf(int32_t peer);
  bool PreemptOf(int32_t peer);
  bool IsFirst(const ScheduledRequest& request) const;
  bool IsStarvedFirst(const ScheduledRequest& request) const;
  bool IsOnlyOneOfFirst(const ScheduledRequest& request, const Sequence& sequence) const;
  bool PreemptForFirst(const ScheduledRequest& request, const Sequence& sequence);

  const SchedulingPolicy& policy_;
  RequestTable& requests_;
  TailNodes& tails_;
  // Sequences with a tail node on which nothing runs, while a step is planned and once one of them was
  // wanted: by age of the request and number, the one to drop first last. Planning makes no sequence idle
  // that has no row in the step.
  std::vector<Candidate> idle_;
  bool idle_listed_ = false;
  // Of the step being planned: from here on in the order, no request can be preempted any more.
  std::optional<Precedence> preempted_from_;
  int64_t preemptions_ = 0;
  int64_t looked_at_ = 0;
};

}  // namespace espalier
