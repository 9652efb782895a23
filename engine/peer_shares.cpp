#include "engine/peer_shares.h"

#include <algorithm>

#include "kernels/base/result.h"

namespace espalier {

int32_t PeerShares::Find(const std::string& name) {
  const auto [found, added] = handles_.try_emplace(name, 0);
  if (!added) return found->second;
  if (free_.empty()) {
    free_.push_back(static_cast<int32_t>(peers_.size()));
    peers_.emplace_back();
  }
  found->second = free_.back();
  free_.pop_back();
  at(found->second) = Peer{};
  at(found->second).name = name;
  return found->second;
}

void PeerShares::DropIfGone(int32_t peer) {
  if (at(peer).requests > 0 || at(peer).unread > 0) return;
  AddHeld(peer, -held(peer));
  handles_.erase(at(peer).name);
  free_.push_back(peer);
}

template <typename Change>
void PeerShares::Update(int32_t peer, const Change& change) {
  Peer& changed = at(peer);
  const auto head = [&] { return Head{running(peer), *changed.waiting.begin(), peer}; };
  const bool ran = changed.admitted > 0;
  const bool was_active = changed.requests > 0;
  waiting_ -= static_cast<int32_t>(changed.waiting.size());
  if (!changed.waiting.empty()) heads_.erase(head());
  change(changed);
  if (!changed.waiting.empty()) heads_.insert(head());
  waiting_ += static_cast<int32_t>(changed.waiting.size());
  active_ += (changed.requests > 0 ? 1 : 0) - (was_active ? 1 : 0);
  running_peers_ += (changed.admitted > 0 ? 1 : 0) - (ran ? 1 : 0);
}

int32_t PeerShares::Submit(const std::string& peer, const Precedence& place) {
  const int32_t handle = Find(peer);
  Update(handle, [&](Peer& changed) {
    ++changed.requests;
    changed.waiting.insert(place);
  });
  return handle;
}

void PeerShares::Admit(int32_t peer, const Precedence& place, int32_t blocks) {
  Update(peer, [&](Peer& changed) {
    ESPALIER_CHECK(changed.waiting.erase(place) == 1);
    ++changed.admitted;
    changed.expected += blocks;
  });
}

void PeerShares::Preempt(int32_t peer, const Precedence& place, int32_t blocks) {
  Update(peer, [&](Peer& changed) {
    --changed.admitted;
    changed.expected -= blocks;
    changed.waiting.insert(place);
  });
}

void PeerShares::End(int32_t peer, const Precedence& place, int32_t blocks, bool admitted) {
  Update(peer, [&](Peer& changed) {
    --changed.requests;
    if (admitted) {
      --changed.admitted;
      changed.expected -= blocks;
    } else {
      changed.waiting.erase(place);
    }
  });
  DropIfGone(peer);
}

void PeerShares::SetUnread(const std::string& peer, int32_t answers) {
  const int32_t handle = Find(peer);
  Update(handle, [&](Peer& changed) { changed.unread = answers; });
  DropIfGone(handle);
}

void PeerShares::ClearHeld() {
  for (const auto& [negated, peer] : by_held_) at(peer).held = 0;
  by_held_.clear();
}

void PeerShares::AddHeld(int32_t peer, int32_t blocks) {
  if (blocks == 0) return;
  int32_t& held = at(peer).held;
  by_held_.erase({-held, peer});
  held += blocks;
  if (held != 0) by_held_.insert({-held, peer});
}

int32_t PeerShares::ShareOf(int32_t peer, int32_t total_blocks) const {
  return total_blocks / std::max(running_peers_ + (at(peer).admitted > 0 ? 0 : 1), 1);
}

}  // namespace espalier
