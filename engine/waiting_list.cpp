#include "engine/waiting_list.h"

#include <algorithm>

namespace espalier {

void WaitingList::Add(uint64_t id, const std::string& peer) {
  const auto found = peers_.try_emplace(peer).first;
  found->second.insert(id);
  peer_of_.emplace(id, found);
}

bool WaitingList::Remove(uint64_t id) {
  const auto found = peer_of_.find(id);
  if (found == peer_of_.end()) return false;
  found->second->second.erase(id);
  if (found->second->second.empty()) peers_.erase(found->second);
  peer_of_.erase(found);
  return true;
}

std::optional<uint64_t> WaitingList::WhoGivesWayTo(const std::string& peer) const {
  const auto largest = std::max_element(peers_.begin(), peers_.end(), [](const auto& a, const auto& b) {
    return a.second.size() < b.second.size();
  });
  if (largest == peers_.end()) return std::nullopt;
  const auto own = peers_.find(peer);
  const size_t then = (own == peers_.end() ? 0 : own->second.size()) + 1;
  if (largest->second.size() <= then) return std::nullopt;
  return *largest->second.rbegin();
}

}  // namespace espalier
