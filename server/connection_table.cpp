#include "server/connection_table.h"

#include <utility>

namespace espalier {

std::optional<ConnectionTable::Rank> ConnectionTable::RankOf(const Share& share) {
  if (share.waiting.empty() && share.idle.empty()) return std::nullopt;
  const bool idle = share.waiting.empty();
  const auto& [since, id] = idle ? *share.idle.begin() : *share.waiting.begin();
  return Rank{-share.connections, idle, since, id};
}

void ConnectionTable::Insert(uint64_t id, Share& share) {
  const Connection& connection = connections_.at(id);
  if (!connection.served) share.waiting.insert({connection.quiet_since, id});
  if (connection.served && connection.calls == 0) share.idle.insert({connection.quiet_since, id});
}

void ConnectionTable::Erase(uint64_t id, Share& share) {
  const Connection& connection = connections_.at(id);
  share.waiting.erase({connection.quiet_since, id});
  share.idle.erase({connection.quiet_since, id});
}

template <typename Change>
void ConnectionTable::Update(uint64_t id, const Change& change) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Share& share = shares_[found->second.peer.share];
  if (const auto rank = RankOf(share)) ranks_.erase(*rank);
  Erase(id, share);
  change(found->second, share);
  Insert(id, share);
  if (const auto rank = RankOf(share)) ranks_.insert(*rank);
}

uint64_t ConnectionTable::Add(Connection connection) {
  const uint64_t id = next_id_++;
  by_name_[connection.peer.connection] = id;
  connections_.emplace(id, std::move(connection));
  Update(id, [](Connection&, Share& share) { ++share.connections; });
  return id;
}

void ConnectionTable::Remove(uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  // Neither waiting nor idle any more: nothing of it stays among the candidates.
  Update(id, [](Connection& connection, Share& share) {
    connection.served = true;
    connection.calls = 1;
    --share.connections;
  });
  const Peer& peer = found->second.peer;
  const auto share = shares_.find(peer.share);
  if (share->second.connections == 0) shares_.erase(share);
  const auto name = by_name_.find(peer.connection);
  if (name != by_name_.end() && name->second == id) by_name_.erase(name);
  connections_.erase(found);
}

const ConnectionTable::Connection* ConnectionTable::Find(uint64_t id) const {
  const auto found = connections_.find(id);
  return found == connections_.end() ? nullptr : &found->second;
}

std::optional<uint64_t> ConnectionTable::FindNamed(const std::string& connection) const {
  const auto found = by_name_.find(connection);
  if (found == by_name_.end()) return std::nullopt;
  return found->second;
}

void ConnectionTable::SetServed(uint64_t id, Time now) {
  Update(id, [now](Connection& connection, Share&) {
    connection.served = true;
    connection.quiet_since = now;
  });
}

void ConnectionTable::CallStarted(uint64_t id) {
  Update(id, [](Connection& connection, Share&) { ++connection.calls; });
}

void ConnectionTable::CallEnded(uint64_t id, Time now) {
  Update(id, [now](Connection& connection, Share&) {
    --connection.calls;
    connection.quiet_since = now;
  });
}

std::optional<uint64_t> ConnectionTable::WhoGivesWay(const std::string& share) const {
  const auto own = shares_.find(share);
  const int connections = own == shares_.end() ? 0 : own->second.connections;
  if (ranks_.empty()) return std::nullopt;
  const auto& [minus_max, idle, since, id] = *ranks_.begin();
  if (-minus_max <= connections) return std::nullopt;
  return id;
}

std::vector<uint64_t> ConnectionTable::Ids() const {
  std::vector<uint64_t> ids;
  ids.reserve(connections_.size());
  for (const auto& [id, connection] : connections_) ids.push_back(id);
  return ids;
}

}  // namespace espalier
