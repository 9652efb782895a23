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

// Whether `from` may not take from `holder`, which is another peer's, though it comes first.
bool MemoryPressure::IsProtected(const ScheduledRequest& holder, const ScheduledRequest& from,
                                 int32_t blocks) {
  if (!requests_.peers().several() || holder.peer() == from.peer() || MayClaim(from, blocks)) return false;
  return tails_.HeldBy(holder.peer()) <= ShareOf(holder);
}

bool MemoryPressure::ClaimBlocks(const ScheduledRequest& request, int32_t blocks) {
  if (!MayClaim(request, blocks)) return false;
  for (const int32_t peer : tails_.HoldersAbove(ShareOf(request))) {
    if (DropIdleOf(peer) || PreemptOf(peer)) return true;
  }
  return false;
}

// Of the last request first.
bool MemoryPressure::DropIdleOf(int32_t peer) {
  ListIdle();
  for (auto idle = idle_.rbegin(); idle != idle_.rend(); ++idle) {
    if (idle->request->peer() != peer || idle->sequence->tail < 0) continue;
    tails_.Drop(idle->request, idle->sequence);
    return true;
  }
  return false;
}

// The last request of the peer; branch by branch where it is the only one that is in memory, or the
// first of all, which keeps one.
bool MemoryPressure::PreemptOf(int32_t peer) {
  const ScheduledRequest* first = requests_.FirstAdmitted();
  const RequestTable::Ordered& order = requests_.by_precedence();
  const auto in_memory = [&](const auto& entry) {
    return entry.second->peer() == peer && !entry.second->tails.in_memory().empty();
  };
  const bool only_one = std::count_if(order.begin(), order.end(), in_memory) == 1;
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    if (!in_memory(*it)) continue;
    ScheduledRequest& victim = *it->second;
    const std::set<int32_t>& held = victim.tails.in_memory();
    const bool keeps_one = &victim == first;
    if (held.size() == 1 && keeps_one) continue;
    if (!keeps_one && !(only_one && held.size() > 1)) {
      if (InStep(victim.issued.last_step())) continue;
      Preempt(&victim);
      return true;
    }
    for (auto number = held.rbegin(); number != held.rend(); ++number) {
      Sequence& parked = victim.sequence(*number);
      if (InStep(parked.last_step)) continue;
      tails_.Drop(&victim, &parked);
      return true;
    }
  }
  return false;
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
  const RequestTable::Ordered& order = requests_.by_precedence();
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    ScheduledRequest& victim = *it->second;
    if (&victim == &request || victim.tails.in_memory().empty() || InStep(victim.issued.last_step()))
      continue;
    Preempt(&victim);
    return true;
  }
  return false;
}

}  // namespace espalier
