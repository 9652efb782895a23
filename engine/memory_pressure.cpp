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
  const TailNodes::Holders& holders = tails_.holders();
  return !holders.empty() && holders.rbegin()->first.priority < request.place.precedence().priority;
}

// One thing gives way. In this order: what peers hold beyond their share; tail nodes that nothing runs on;
// later requests; later sequences of the same request; for the first request, anything. Nothing that has
// rows in the step being planned is touched.
bool MemoryPressure::TakeRoom(const ScheduledRequest& request, const Sequence& sequence, int32_t blocks) {
  return ClaimBlocks(request, blocks) || DropIdle(request, sequence, blocks) ||
         PreemptLater(request, blocks) || ParkAbove(requests_.Find(request.id()), sequence.number) ||
         PreemptForFirst(request, sequence);
}

void MemoryPressure::ListIdle() {
  if (std::exchange(idle_listed_, true)) return;
  const bool several = requests_.peers().several();
  for (const auto& [place, holder] : tails_.holders()) {
    for (const int32_t number : holder->tails.in_memory()) {
      ++looked_at_;
      Sequence& idle = holder->sequence(number);
      if (InStep(idle.last_step) || holder->Wants(idle)) continue;
      if (idle.generates() && !idle.finished()) continue;  // its last tokens are under way
      all_.idle.push_back({holder, &idle});
      if (several) of_peer_[holder->peer()].idle.push_back({holder, &idle});
    }
  }
}

// Of the request or one after it; null: none. The sequence itself stays, and its source, which is noted.
Candidate MemoryPressure::LastIdle(Givers* givers, const ScheduledRequest& request, const Sequence& sequence,
                                   Candidate* source) {
  std::vector<Candidate>& list = givers->idle;
  for (size_t i = list.size(); i-- > 0;) {
    ++looked_at_;
    const Candidate idle = list[i];
    if (!IsIdle(idle)) {  // at most two stand behind it
      list.erase(list.begin() + static_cast<ptrdiff_t>(i));
      continue;
    }
    if (idle.request->place.precedence() < request.place.precedence()) break;
    const bool is_source = idle.request == &request && idle.sequence->number == sequence.source;
    if (is_source) *source = idle;
    if (!is_source && idle.sequence != &sequence) return idle;
  }
  return {};
}

// Of the last request first, not of those before it; the source of the sequence last.
bool MemoryPressure::DropIdle(const ScheduledRequest& request, const Sequence& sequence, int32_t blocks) {
  ListIdle();
  Candidate last;
  Candidate source;
  VisitGivers(request, blocks, [&](const TailNodes::Holders&, Givers* givers) {
    const Candidate idle = LastIdle(givers, request, sequence, &source);
    if (idle.request == nullptr) return;
    if (last.request == nullptr || idle.request->place.precedence() > last.request->place.precedence())
      last = idle;
  });
  if (last.request == nullptr) last = source;
  if (last.request == nullptr) return false;
  tails_.Drop(last.request, last.sequence);
  return true;
}

// Null: none. What has been passed over once, because it has rows in the step, is not looked at again in it.
ScheduledRequest* MemoryPressure::LastPreemptible(const TailNodes::Holders& holders, Givers* givers) {
  auto it = holders.rbegin();
  if (givers->preempted_from) it = std::make_reverse_iterator(holders.lower_bound(*givers->preempted_from));
  for (; it != holders.rend(); ++it) {
    ++looked_at_;
    if (!InStep(it->second->issued.last_step())) return it->second;
    givers->preempted_from = it->first;
  }
  return nullptr;
}

bool MemoryPressure::PreemptLater(const ScheduledRequest& request, int32_t blocks) {
  ScheduledRequest* victim = nullptr;
  VisitGivers(request, blocks, [&](const TailNodes::Holders& holders, Givers* givers) {
    ScheduledRequest* last = LastPreemptible(holders, givers);
    if (last == nullptr) return;
    if (victim == nullptr || last->place.precedence() > victim->place.precedence()) victim = last;
  });
  if (victim == nullptr || victim->place.precedence() <= request.place.precedence()) return false;
  Preempt(victim);
  return true;
}

void MemoryPressure::Preempt(ScheduledRequest* victim) {
  const int32_t before = tails_.kv().live_blocks();
  tails_.DropAll(victim);
  victim->pressure.comes_first_ = false;
  requests_.Withdraw(victim, before - tails_.kv().live_blocks());
  ++preemptions_;
}

// The last sequence of the request that has no row in the step, of those above the number.
bool MemoryPressure::ParkAbove(ScheduledRequest* request, int32_t number) {
  PressureClaim& state = request->pressure;
  const std::set<int32_t>& in_memory = request->tails.in_memory();
  auto it = in_memory.rbegin();
  if (InStep(state.parked_step_)) it = std::make_reverse_iterator(in_memory.lower_bound(state.parked_from_));
  for (; it != in_memory.rend() && *it > number; ++it) {
    ++looked_at_;
    state.parked_step_ = tails_.kv().current_step();
    state.parked_from_ = *it;
    Sequence& parked = request->sequence(*it);
    if (InStep(parked.last_step)) continue;
    tails_.Drop(request, &parked);
    return true;
  }
  return false;
}

}  // namespace espalier
