#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
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
    all_ = {};
    of_peer_.clear();
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
  // Requests and sequences that were looked at for one that could give way: per step no more than hold
  // memory, and for each time that room is sought a few, and one for each peer that holds more than its
  // share.
  int64_t looked_at() const { return looked_at_; }

 private:
  // What has yet to give way in the step being planned, of a peer or of all of them.
  struct Givers {
    // Sequences with a tail node on which nothing ran when they were listed, by age of the request and
    // number: the one to drop first is the last.
    std::vector<Candidate> idle;
    // From here on in the order, no request can be preempted any more: each has rows in the step.
    std::optional<Precedence> preempted_from;
  };

  bool HasLesserInMemory(const ScheduledRequest& request) const;
  bool TakeRoom(const ScheduledRequest& request, const Sequence& sequence, int32_t blocks);

  // Within peers (memory_pressure.cpp).
  void ListIdle();
  // Whether a listed sequence is still there to be dropped. A selection that is taken up after they were
  // listed may have given it rows in the step.
  bool IsIdle(const Candidate& listed) const {
    return listed.sequence->tail >= 0 && !InStep(listed.sequence->last_step);
  }
  Candidate LastIdle(Givers* givers, const ScheduledRequest& request, const Sequence& sequence,
                     Candidate* source);
  bool DropIdle(const ScheduledRequest& request, const Sequence& sequence, int32_t blocks);
  ScheduledRequest* LastPreemptible(const TailNodes::Holders& holders, Givers* givers);
  bool PreemptLater(const ScheduledRequest& request, int32_t blocks);
  void Preempt(ScheduledRequest* victim);
  bool ParkAbove(ScheduledRequest* request, int32_t number);
  bool InStep(uint64_t last_step) const { return last_step == tails_.kv().current_step(); }

  // Between peers (memory_claims.cpp).
  int32_t ShareOf(const ScheduledRequest& request) const;
  // Calls visit(holders, givers) for all that the request may take from: for all peers at once, or one by
  // one.
  template <typename Visit>
  void VisitGivers(const ScheduledRequest& request, int32_t blocks, const Visit& visit) {
    if (!requests_.peers().several() || MayClaim(request, blocks)) return visit(tails_.holders(), &all_);
    const int32_t own = request.peer();
    visit(tails_.holders_of(own), &of_peer_[own]);
    tails_.VisitHoldersAbove(ShareOf(request), [&](int32_t peer) {
      ++looked_at_;
      if (peer != own) visit(tails_.holders_of(peer), &of_peer_[peer]);
      return false;
    });
  }
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
  // Once room was sought in the step. Planning makes no sequence idle that has no row in the step.
  bool idle_listed_ = false;
  Givers all_;
  std::unordered_map<int32_t, Givers> of_peer_;  // by peers
  int64_t preemptions_ = 0;
  int64_t looked_at_ = 0;
};

}  // namespace espalier
