#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "engine/peer_shares.h"
#include "engine/scheduled_request.h"

namespace espalier {

// Which requests there are, in the order of service, whose they are, and which are admitted. Owns them. Not
// thread-safe.
class RequestTable {
 public:
  using Requests = std::map<uint64_t, std::shared_ptr<ScheduledRequest>>;  // by id: oldest first

  // Waits from now on. Ids ascend.
  void Add(uint64_t id, const std::string& peer, int32_t wanted_blocks,
           std::shared_ptr<ScheduledRequest> request);
  void Admit(ScheduledRequest* request);
  // Waits again, for so many blocks.
  void Withdraw(ScheduledRequest* request, int32_t wanted_blocks);
  // Precondition: it holds nothing any more.
  void Remove(ScheduledRequest* request);
  void SetUnread(const std::string& peer, int32_t answers) { peers_.SetUnread(peer, answers); }

  bool empty() const { return requests_.empty(); }
  int32_t size() const { return static_cast<int32_t>(requests_.size()); }
  int32_t admitted() const { return size() - peers_.waiting(); }
  const Requests& by_age() const { return requests_; }
  // Precondition: not empty.
  ScheduledRequest* oldest() const { return requests_.begin()->second.get(); }
  // Null: there is none.
  ScheduledRequest* OldestAdmitted() const;
  // Null: it has ended. Quick where one request is asked for several times in a row.
  ScheduledRequest* Find(uint64_t id);

  const PeerShares& peers() const { return peers_; }
  // What each peer holds of the KV pool is counted by TailNodes.
  PeerShares& held_by_peers() { return peers_; }

 private:
  Requests requests_;
  PeerShares peers_;
  ScheduledRequest* found_ = nullptr;  // last answer of Find
};

}  // namespace espalier
