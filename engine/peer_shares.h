#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/precedence.h"

namespace espalier {

// Who asks for what, where several peers share one engine: how many requests of each wait, run, or have ended
// with an answer that is not read yet, and how many KV blocks each holds. A peer (TreeRequest::peer) exists
// while it has requests or unread answers; its handle is good for so long. Nothing is kept for anyone: shares
// matter only while there are several peers, and only where something is short.
class PeerShares {
 public:
  // A waiting request that is the first of its peer. In the order in which they are to be admitted: those
  // first whose peer has the fewest requests that run or are unread, then by precedence.
  struct Head {
    int32_t running = 0;
    Precedence place;
    int32_t peer = 0;
    auto operator<=>(const Head&) const = default;
  };

  // A request waits from Submit on, and again when it is preempted. Returns its peer's handle.
  int32_t Submit(const std::string& peer, const Precedence& place);
  // `blocks`: what the request is expected to hold at least while it is admitted.
  void Admit(int32_t peer, const Precedence& place, int32_t blocks);
  void Preempt(int32_t peer, const Precedence& place, int32_t blocks);
  void End(int32_t peer, const Precedence& place, int32_t blocks, bool admitted);
  // Answers of ended requests that the peer has yet to read.
  void SetUnread(const std::string& peer, int32_t answers);

  int32_t waiting() const { return waiting_; }
  const std::set<Head>& heads() const { return heads_; }
  // Requests of the peer that are admitted, and unread answers: the next one that it begins comes after so
  // many.
  int32_t running(int32_t peer) const { return at(peer).admitted + at(peer).unread; }
  int32_t unread(int32_t peer) const { return at(peer).unread; }
  // Peers with requests.
  int32_t active() const { return active_; }
  bool several() const { return active_ > 1; }

  // KV blocks that only this peer's requests use, as counted since the last Clear.
  void ClearHeld();
  void AddHeld(int32_t peer, int32_t blocks);
  int32_t held(int32_t peer) const { return at(peer).held; }
  int32_t expected(int32_t peer) const { return at(peer).expected; }  // of admitted requests, summed
  // What a peer may hold of so many blocks where all want more: an equal part for each that runs requests,
  // this one included.
  int32_t ShareOf(int32_t peer, int32_t total_blocks) const;
  // Calls visit(peer) for those that hold more than that, most first, until it returns true. Returns whether
  // it did. It may change what peers hold only where it returns true.
  template <typename Visit>
  bool VisitHoldersAbove(int32_t blocks, const Visit& visit) const {
    for (const auto& [negated, peer] : by_held_) {
      if (-negated <= blocks) return false;
      if (at(peer).requests > 0 && visit(peer)) return true;
    }
    return false;
  }

 private:
  struct Peer {
    std::string name;
    int32_t requests = 0;
    int32_t admitted = 0;
    int32_t unread = 0;
    int32_t held = 0;
    int32_t expected = 0;
    std::set<Precedence> waiting;
  };

  Peer& at(int32_t peer) { return peers_[static_cast<size_t>(peer)]; }
  const Peer& at(int32_t peer) const { return peers_[static_cast<size_t>(peer)]; }
  int32_t Find(const std::string& name);
  void DropIfGone(int32_t peer);
  // Applies a change of a peer that may move it in heads_.
  template <typename Change>
  void Update(int32_t peer, const Change& change);

  std::vector<Peer> peers_;  // by handle
  std::vector<int32_t> free_;
  std::map<std::string, int32_t> handles_;
  std::set<Head> heads_;
  std::set<std::pair<int32_t, int32_t>> by_held_;  // (-held, handle) where held is not 0
  int32_t waiting_ = 0;                            // requests
  int32_t active_ = 0;
  int32_t running_peers_ = 0;  // with admitted requests
};

}  // namespace espalier
