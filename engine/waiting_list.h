#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

namespace espalier {

// Requests that wait for their start, by peer: what a full queue needs to know. Not thread-safe.
class WaitingList {
 public:
  void Add(uint64_t id, const std::string& peer);  // ids ascend
  bool Remove(uint64_t id);                        // false: it was not in the list
  int32_t size() const { return static_cast<int32_t>(peer_of_.size()); }

  // Which request leaves a full queue so that `peer` gets a place: the newest of the peer that has the most,
  // if that has more than `peer` would have then. Nothing: `peer` has its share already.
  std::optional<uint64_t> WhoGivesWayTo(const std::string& peer) const;

 private:
  using Peers = std::map<std::string, std::set<uint64_t>>;
  Peers peers_;
  std::unordered_map<uint64_t, Peers::iterator> peer_of_;
};

}  // namespace espalier
