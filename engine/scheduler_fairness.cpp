#include <algorithm>

#include "engine/scheduler_impl.h"

// What peers may take from one another where blocks are short. A peer that holds less than an equal share of
// the pool may take blocks, up to its share, from those that hold more than theirs; and none that holds more
// may take what leaves another with less, however old its request. One exception, so that something always
// goes on: the oldest request keeps one branch, and may take for it what it needs.

namespace espalier {

void Scheduler::Impl::CountHeldBlocks() {
  if (std::exchange(held_counted_, true)) return;
  constexpr int32_t kNoPeer = -1;
  constexpr int32_t kMany = -2;
  peers_.ClearHeld();
  std::vector<int32_t> holder(static_cast<size_t>(tree_.node_slots()), kNoPeer);
  for (const auto& [id, request] : requests_) {
    for (const int32_t number : request->in_memory) {
      for (int32_t at = request->tree.branch(number).leaf; at >= 0; at = tree_.node(at).parent) {
        int32_t& known = holder[static_cast<size_t>(at)];
        if (known == request->peer || known == kMany) break;  // and so is all above it
        const auto blocks = static_cast<int32_t>(tree_.node(at).blocks.size());
        if (known == kNoPeer) {
          peers_.AddHeld(request->peer, blocks);
        } else {
          peers_.AddHeld(known, -blocks);
        }
        known = known == kNoPeer ? request->peer : kMany;
      }
    }
  }
}

// After a change on behalf of the request, before which so many blocks were live.
void Scheduler::Impl::NoteHeld(const Request& request, int32_t blocks_before) {
  if (held_counted_) peers_.AddHeld(request.peer, tree_.live_blocks() - blocks_before);
}

// Whether the request's peer holds at most its share with so many blocks more.
bool Scheduler::Impl::MayClaim(const Request& request, int32_t blocks) {
  if (!peers_.several()) return false;
  CountHeldBlocks();
  return peers_.held(request.peer) + blocks <= peers_.ShareOf(request.peer, allocator_.total_blocks());
}

// Whether the peer's share has room for the request; what other requests of the peer were admitted for counts
// as if they held it already.
bool Scheduler::Impl::MayBeginByClaim(const Request& request) {
  if (!MayClaim(request, request.wanted_blocks)) return false;
  const int32_t share = peers_.ShareOf(request.peer, allocator_.total_blocks());
  return peers_.expected(request.peer) + request.wanted_blocks <= share;
}

// Has others give way at once, before they have rows in the step being planned.
void Scheduler::Impl::ClaimToBegin(Request* request) {
  request->comes_first = true;
  const auto coming = [&] { return allocator_.free_blocks() + allocator_.retiring_blocks(); };
  while (coming() < request->wanted_blocks) {
    if (tree_.Evict(request->wanted_blocks - coming()) > 0) continue;
    if (!ClaimBlocks(*request, request->wanted_blocks)) return;
  }
}

// Whether `from` may not take from `holder`, which is another peer's, though it is older.
bool Scheduler::Impl::IsProtected(const Request& holder, const Request& from, int32_t blocks) {
  if (!peers_.several() || holder.peer == from.peer || MayClaim(from, blocks)) return false;
  return peers_.held(holder.peer) <= peers_.ShareOf(holder.peer, allocator_.total_blocks());
}

bool Scheduler::Impl::ClaimBlocks(const Request& request, int32_t blocks) {
  if (!MayClaim(request, blocks)) return false;
  const int32_t share = peers_.ShareOf(request.peer, allocator_.total_blocks());
  for (const int32_t peer : peers_.HoldersAbove(share)) {
    if (DropIdleLeafOf(peer) || PreemptOf(peer)) return true;
  }
  return false;
}

// Of the youngest request first.
bool Scheduler::Impl::DropIdleLeafOf(int32_t peer) {
  ListIdleLeaves();
  for (auto idle = idle_leaves_.rbegin(); idle != idle_leaves_.rend(); ++idle) {
    if (idle->request->peer != peer || idle->branch->leaf < 0) continue;
    DropLeaf(idle->request, idle->branch);
    return true;
  }
  return false;
}

// The youngest request of the peer; branch by branch where it is the only one that is in memory, or the
// oldest of all, which keeps one.
bool Scheduler::Impl::PreemptOf(int32_t peer) {
  const Request* oldest = OldestAdmitted();
  const auto in_memory = [&](const auto& entry) {
    return entry.second->peer == peer && !entry.second->in_memory.empty();
  };
  const bool only_one = std::count_if(requests_.begin(), requests_.end(), in_memory) == 1;
  for (auto it = requests_.rbegin(); it != requests_.rend(); ++it) {
    if (!in_memory(*it)) continue;
    Request& victim = *it->second;
    const bool keeps_one = &victim == oldest;
    if (victim.in_memory.size() == 1 && keeps_one) continue;
    if (!keeps_one && !(only_one && victim.in_memory.size() > 1)) {
      if (victim.last_step == tree_.current_step()) continue;
      Preempt(&victim);
      return true;
    }
    for (auto number = victim.in_memory.rbegin(); number != victim.in_memory.rend(); ++number) {
      Branch& parked = victim.tree.branch(*number);
      if (parked.last_step == tree_.current_step()) continue;
      DropLeaf(&victim, &parked);
      return true;
    }
  }
  return false;
}

// Whether, among several peers, this is the request that always goes on.
bool Scheduler::Impl::IsOldest(const Request& request) const {
  return peers_.several() && &request == OldestAdmitted();
}

// Whether it is that one and does not: it has had no row in the last steps.
bool Scheduler::Impl::IsStarvedOldest(const Request& request) const {
  constexpr uint64_t kPatience = 4;  // steps
  return IsOldest(request) && request.last_step + kPatience < tree_.current_step();
}

// Whether this is the one branch that the oldest request keeps whatever happens.
bool Scheduler::Impl::IsLastOfOldest(const Request& request, const Branch& branch) const {
  if (!IsOldest(request)) return false;
  return std::all_of(request.in_memory.begin(), request.in_memory.end(),
                     [&](int32_t number) { return number == branch.number; });
}

// For that branch, the youngest of the other requests.
bool Scheduler::Impl::PreemptForOldest(const Request& request, const Branch& branch) {
  if (!IsLastOfOldest(request, branch)) return false;
  for (auto it = requests_.rbegin(); it != requests_.rend(); ++it) {
    Request& victim = *it->second;
    if (&victim == &request || victim.in_memory.empty() || victim.last_step == tree_.current_step()) continue;
    Preempt(&victim);
    return true;
  }
  return false;
}

const Scheduler::Impl::Request* Scheduler::Impl::OldestAdmitted() const {
  for (const auto& [id, request] : requests_) {
    if (request->admitted) return request.get();
  }
  return nullptr;
}

}  // namespace espalier
