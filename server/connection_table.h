#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "server/peer.h"

namespace espalier {

// The connections of one listening address, and the rule which one is closed when there is no place
// for another. A table only: no socket, no clock, no lock.
class ConnectionTable {
 public:
  using Time = std::chrono::steady_clock::time_point;

  struct Connection {
    Peer peer;
    int file = -1;        // its descriptor
    uint64_t cookie = 0;  // the kernel's number of the socket: `file` may by now be another one
    bool served = false;  // gRPC has it; before that it waits for its first bytes
    int calls = 0;        // under way
    Time quiet_since{};   // accepted, handed to gRPC, or its last call ended
  };

  // Ids are never used again.
  uint64_t Add(Connection connection);
  void Remove(uint64_t id);
  const Connection* Find(uint64_t id) const;
  // By Peer::connection.
  std::optional<uint64_t> FindNamed(const std::string& connection) const;

  void SetServed(uint64_t id, Time now);
  void CallStarted(uint64_t id);
  void CallEnded(uint64_t id, Time now);  // of a connection that has gone: nothing happens

  // Which connection gives its place to a new one of `share`: of the shares that have more connections than
  // that one, the share that has the most; of its connections the one that has waited longest for its first
  // bytes, else the one without a call for longest. None: the new one is refused; connections with calls are
  // never taken.
  std::optional<uint64_t> WhoGivesWay(const std::string& share) const;

  size_t size() const { return connections_.size(); }
  std::vector<uint64_t> Ids() const;

 private:
  using Candidate = std::pair<Time, uint64_t>;
  struct Share {
    int connections = 0;
    std::set<Candidate> waiting;
    std::set<Candidate> idle;  // served, without a call
  };
  // Most connections first, then those that wait, then the longest quiet.
  using Rank = std::tuple<int, bool, Time, uint64_t>;

  static std::optional<Rank> RankOf(const Share& share);
  // Changes a connection, and what depends on it.
  template <typename Change>
  void Update(uint64_t id, const Change& change);
  void Insert(uint64_t id, Share& share);
  void Erase(uint64_t id, Share& share);

  std::unordered_map<uint64_t, Connection> connections_;
  std::unordered_map<std::string, uint64_t> by_name_;
  std::unordered_map<std::string, Share> shares_;
  std::set<Rank> ranks_;  // the best candidate of each share that has one
  uint64_t next_id_ = 1;
};

}  // namespace espalier
