#include "engine/memory_pressure.h"

#include <iterator>
#include <utility>

// What gives way to a request, whichever request asks.

namespace espalier {

bool MemoryPressure::MakeRoom(ScheduledRequest* request, const Sequence& sequence, int32_t blocks) {
  const BlockAllocator& pool = tails_.blocks();
  while (pool.free_blocks() < blocks) {
    if (tails_.mutable_kv().Evict(blocks - pool.free_blocks()) > 0) continue;
    const bool awaited = pool.free_blocks() + pool.retiring_blocks() >= blocks;
    if (!awaited && TakeRoom(*request, sequence, blocks)) continue;
    request->pressure.comes_first_ = MayClaim(*request, blocks) || IsOnlyOneOfFirst(*request, sequence) ||
                                     IsStarvedFirst(*request) || HasLesserInMemory(*request);
    return false;
  }
  request->pressure.comes_first_ = false;
  return true;
}

// Whether a request of lower priority has memory that it could give up, if this one came before it.
bool MemoryPressure::HasLesserInMemory(const ScheduledRequest& request) const {
  const RequestTable::Ordered& order = requests_.by_precedence();
  for (auto it = order.rbegin(); it->first.priority < request.place.precedence().priority; ++it) {
    if (!it->second->tails.in_memory().empty()) return true;
  }
  return false;
}

// One thing gives way. In this order: what peers hold beyond their share; tail nodes that nothing runs on;
// later requests; later sequences of the same request; for the first request, anything. Nothing that has
// rows in the step being planned is touched.
bool MemoryPressure::TakeRoom(const ScheduledRequest& request, const Sequence& sequence, int32_t blocks) {
  return ClaimBlocks(request, blocks) || DropIdle(request, sequence, blocks) ||
         PreemptLater(request, blocks) || ParkHigher(request, sequence) || PreemptForFirst(request, sequence);
}

void MemoryPressure::ListIdle() {
  if (std::exchange(idle_listed_, true)) return;
  idle_.clear();
  for (const auto& [place, holder] : requests_.by_precedence()) {
    for (const int32_t number : holder->tails.in_memory()) {
      Sequence& idle = holder->sequence(number);
      if (InStep(idle.last_step) || holder->Wants(idle)) continue;
      if (idle.generates() && !idle.finished()) continue;  // its last tokens are under way
      idle_.push_back({holder, &idle});
    }
  }
}

// Of the last request first, not of those before it; the source of the sequence last.
bool MemoryPressure::DropIdle(const ScheduledRequest& request, const Sequence& sequence, int32_t blocks) {
  ListIdle();
  const auto is_source = [&](const Candidate& idle) {
    return idle.request == &request && idle.sequence->number == sequence.source;
  };
  Candidate source;
  size_t last = idle_.size();
  while (last > 0 && idle_[last - 1].request->place.precedence() >= request.place.precedence()) {
    const Candidate idle = idle_[last - 1];
    const bool stays =
        idle.sequence == &sequence || is_source(idle) || IsProtected(*idle.request, request, blocks);
    if (idle.sequence->tail >= 0 && stays) {
      if (is_source(idle)) source = idle;
      --last;  // stays
      continue;
    }
    idle_.erase(idle_.begin() + static_cast<ptrdiff_t>(last) - 1);
    if (idle.sequence->tail < 0) {  // dropped meanwhile
      --last;
      continue;
    }
    tails_.Drop(idle.request, idle.sequence);
    return true;
  }
  if (source.request == nullptr) return false;
  tails_.Drop(source.request, source.sequence);
  return true;
}

// What has been passed over once, because it has rows in the step or no memory, is not looked at again in the
// step; but for what is protected from this request alone.
bool MemoryPressure::PreemptLater(const ScheduledRequest& request, int32_t blocks) {
  const RequestTable::Ordered& order = requests_.by_precedence();
  auto it = order.rbegin();
  if (preempted_from_) it = std::make_reverse_iterator(order.lower_bound(*preempted_from_));
  bool all_passed = true;
  for (; it != order.rend() && it->first > request.place.precedence(); ++it) {
    ++looked_at_;
    ScheduledRequest& victim = *it->second;
    const bool possible = !victim.tails.in_memory().empty() && !InStep(victim.issued.last_step());
    if (possible && IsProtected(victim, request, blocks)) {
      all_passed = false;
      continue;
    }
    if (all_passed) preempted_from_ = it->first;
    if (!possible) continue;
    Preempt(&victim);
    return true;
  }
  return false;
}

void MemoryPressure::Preempt(ScheduledRequest* victim) {
  const int32_t before = tails_.kv().live_blocks();
  tails_.DropAll(victim);
  victim->pressure.comes_first_ = false;
  requests_.Withdraw(victim, before - tails_.kv().live_blocks());
  ++preemptions_;
}

bool MemoryPressure::ParkHigher(const ScheduledRequest& request, const Sequence& sequence) {
  ScheduledRequest& own = *requests_.Find(request.id());
  PressureClaim& state = own.pressure;
  const std::set<int32_t>& in_memory = own.tails.in_memory();
  auto it = in_memory.rbegin();
  if (InStep(state.parked_step_)) it = std::make_reverse_iterator(in_memory.lower_bound(state.parked_from_));
  for (; it != in_memory.rend() && *it > sequence.number; ++it) {
    ++looked_at_;
    state.parked_step_ = tails_.kv().current_step();
    state.parked_from_ = *it;
    Sequence& parked = own.sequence(*it);
    if (InStep(parked.last_step)) continue;
    tails_.Drop(&own, &parked);
    return true;
  }
  return false;
}

}  // namespace espalier
