#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/event_log.h"
#include "engine/tree_event.h"
#include "engine/tree_request.h"

namespace espalier {

// Who hears of each request, and whose answers have yet to be read. Used by the engine's thread.
class EventDelivery {
 public:
  struct Client {
    std::shared_ptr<TreeEventSink> sink;
    std::string peer;
    std::vector<bool> generates;  // [nodes]
    int64_t submit_us = 0;
    int64_t first_token_us = 0;
    bool started = false;
  };
  static Client ClientOf(const TreeRequest& request, std::shared_ptr<TreeEventSink> sink, int64_t submit_us);

  void Add(uint64_t id, const Client& client) { clients_.emplace(id, client); }
  // It is here, and has had no event yet.
  bool Waits(uint64_t id) const;
  std::vector<uint64_t> ids() const;

  struct Delivered {
    bool left_queue = false;  // it waited until now
    bool started = false;
    bool ended = false;
  };
  Delivered Deliver(RequestEvent event);

  // Peers whose number of unread answers has changed since the last call, with that number. Lets go of the
  // answers that have been taken meanwhile.
  std::map<std::string, int32_t> TakeUnreadChanges();

  // The last event of every request. Allocates nothing.
  void EndAll(const Error& error);

 private:
  std::unordered_map<uint64_t, Client> clients_;
  // Ended requests whose clients have yet to take some of the answer, and how many each peer has.
  std::vector<std::pair<std::string, std::weak_ptr<TreeEventSink>>> unread_;
  std::map<std::string, int32_t> unread_of_;
  std::map<std::string, int32_t> changed_;
};

}  // namespace espalier
