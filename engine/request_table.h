#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "engine/peer_shares.h"
#include "engine/scheduled_request.h"

namespace espalier {

// Which requests there are, in the order of service, whose they are, and which are admitted. Owns them. Those
// that wait for their clients are *suspended*: unfinished, but without any effect until they are resumed. Not
// thread-safe.
class RequestTable {
 public:
  using Ordered = std::map<Precedence, ScheduledRequest*>;

  // Waits for its admission from now on. Each id only once.
  void Add(uint64_t id, int32_t wanted_blocks, std::shared_ptr<ScheduledRequest> request);
  void Admit(ScheduledRequest* request);
  // Waits again, in its old place, for so many blocks.
  void Withdraw(ScheduledRequest* request, int32_t wanted_blocks);
  // Waits for its client. Precondition: it holds no tail node.
  void Suspend(ScheduledRequest* request);
  // Arrives anew. Precondition: suspended.
  void Resume(ScheduledRequest* request, int32_t wanted_blocks);
  // Precondition: it holds nothing any more. Returns what owns it.
  std::shared_ptr<ScheduledRequest> Remove(ScheduledRequest* request);
  void SetUnread(const std::string& peer, int32_t answers) { peers_.SetUnread(peer, answers); }

  bool empty() const { return requests_.empty(); }
  int32_t size() const { return static_cast<int32_t>(requests_.size()); }
  // Whether there is one that does not wait for its client.
  bool runnable() const { return !order_.empty(); }
  int32_t admitted() const { return static_cast<int32_t>(order_.size()) - peers_.waiting(); }
  // All but the suspended ones.
  const Ordered& by_precedence() const { return order_; }
  ScheduledRequest* at(const Precedence& place) const { return order_.at(place); }
  // Precondition: runnable.
  ScheduledRequest* first() const { return order_.begin()->second; }
  // Null: there is none.
  ScheduledRequest* FirstAdmitted() const;
  // Precondition: not empty.
  ScheduledRequest* any() const { return requests_.begin()->second.get(); }
  // Null: it has ended. Quick where one request is asked for several times in a row.
  ScheduledRequest* Find(uint64_t id);

  const PeerShares& peers() const { return peers_; }
  // What each peer holds of the KV pool is counted by TailNodes.
  PeerShares& held_by_peers() { return peers_; }

 private:
  void Arrive(ScheduledRequest* request, int32_t wanted_blocks);
  void Depart(ScheduledRequest* request);

  std::map<uint64_t, std::shared_ptr<ScheduledRequest>> requests_;  // by id
  Ordered order_;
  PeerShares peers_;
  uint64_t arrivals_ = 0;
  ScheduledRequest* found_ = nullptr;  // last answer of Find
};

}  // namespace espalier
