#include <algorithm>

#include "engine/memory_pressure.h"

// What peers may take from one another.

namespace espalier {

int32_t MemoryPressure::ShareOf(const ScheduledRequest& request) const {
  return requests_.peers().ShareOf(request.peer(), tails_.blocks().total_blocks());
}

bool MemoryPressure::MayClaim(const ScheduledRequest& request, int32_t blocks) {
  if (!requests_.peers().several()) return false;
  return tails_.HeldBy(request.peer()) + blocks <= ShareOf(request);
}

bool MemoryPressure::MayBeginByClaim(const ScheduledRequest& request) {
  const int32_t wanted = request.place.wanted_blocks();
  if (!MayClaim(request, wanted)) return false;
  return requests_.peers().expected(request.peer()) + wanted <= ShareOf(request);
}

void MemoryPressure::ClaimToBegin(ScheduledRequest* request) {
  request->pressure.comes_first_ = true;
  const BlockAllocator& pool = tails_.blocks();
  const int32_t wanted = request->place.wanted_blocks();
  const auto coming = [&] { return pool.free_blocks() + pool.retiring_blocks(); };
  while (coming() < wanted) {
    if (tails_.mutable_kv().Evict(wanted - coming()) > 0) continue;
    if (!ClaimBlocks(*request, wanted)) return;
  }
}

bool MemoryPressure::ClaimBlocks(const ScheduledRequest& request, int32_t blocks) {
  if (!MayClaim(request, blocks)) return false;
  return tails_.VisitHoldersAbove(ShareOf(request), [&](int32_t peer) {
    ++looked_at_;
    return DropIdleOf(peer) || PreemptOf(peer);
  });
}

// Of the last request first.
bool MemoryPressure::DropIdleOf(int32_t peer) {
  ListIdle();
  std::vector<Candidate>& list = of_peer_[peer].idle;
  while (!list.empty()) {
    ++looked_at_;
    const Candidate idle = list.back();
    list.pop_back();
    if (!IsIdle(idle)) continue;
    tails_.Drop(idle.request, idle.sequence);
    return true;
  }
  return false;
}

// The last request of the peer; branch by branch where it is the only one that is in memory, or the
// first of all, which keeps one.
bool MemoryPressure::PreemptOf(int32_t peer) {
  const TailNodes::Holders& holders = tails_.holders_of(peer);
  if (holders.empty()) return false;
  ScheduledRequest* const earliest = holders.begin()->second;
  const bool keeps_one = earliest == requests_.FirstAdmitted();
  if (holders.size() > 1) {
    ScheduledRequest* victim = LastPreemptible(holders, &of_peer_[peer]);
    if (victim != nullptr && !(victim == earliest && keeps_one)) {
      Preempt(victim);
      return true;
    }
    if (!keeps_one) return false;
  }
  if (earliest->tails.in_memory().size() > 1) return ParkAbove(earliest, -1);
  if (keeps_one || InStep(earliest->issued.last_step())) return false;
  Preempt(earliest);
  return true;
}

// Whether, among several peers, this is the request that always goes on.
bool MemoryPressure::IsFirst(const ScheduledRequest& request) const {
  return requests_.peers().several() && &request == requests_.FirstAdmitted();
}

// Whether it is that one and does not: it has had no row in the last steps.
bool MemoryPressure::IsStarvedFirst(const ScheduledRequest& request) const {
  return IsFirst(request) &&
         request.issued.last_step() + policy_.starved_after_steps < tails_.kv().current_step();
}

// Whether this is the one sequence that the first request keeps whatever happens.
bool MemoryPressure::IsOnlyOneOfFirst(const ScheduledRequest& request, const Sequence& sequence) const {
  if (!IsFirst(request)) return false;
  const std::set<int32_t>& in_memory = request.tails.in_memory();
  return std::all_of(in_memory.begin(), in_memory.end(),
                     [&](int32_t number) { return number == sequence.number; });
}

// For that sequence, the last of the other requests.
bool MemoryPressure::PreemptForFirst(const ScheduledRequest& request, const Sequence& sequence) {
  if (!IsOnlyOneOfFirst(request, sequence)) return false;
  ScheduledRequest* victim = LastPreemptible(tails_.holders(), &all_);
  if (victim == nullptr || victim == &request) return false;
  Preempt(victim);
  return true;
}

}  // namespace espalier
