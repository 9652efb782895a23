#include "engine/event_delivery.h"

#include <variant>

#include "engine/engine_clock.h"

namespace espalier {

EventDelivery::Client EventDelivery::ClientOf(const TreeRequest& request, std::shared_ptr<TreeEventSink> sink,
                                              int64_t submit_us) {
  Client client{.sink = std::move(sink), .peer = request.peer, .generates = {}, .submit_us = submit_us};
  for (const TreeNodeSpec& node : request.nodes)
    client.generates.push_back(std::holds_alternative<GenerateSpec>(node.content));
  return client;
}

bool EventDelivery::Waits(uint64_t id) const {
  const auto client = clients_.find(id);
  return client != clients_.end() && !client->second.started;
}

std::vector<uint64_t> EventDelivery::ids() const {
  std::vector<uint64_t> ids;
  for (const auto& [id, client] : clients_) ids.push_back(id);
  return ids;
}

EventDelivery::Delivered EventDelivery::Deliver(RequestEvent event) {
  const auto it = clients_.find(event.request_id);
  ESPALIER_CHECK(it != clients_.end());
  Client& client = it->second;
  const int64_t since_submit_us = EngineNowUs() - client.submit_us;
  Delivered delivered;
  delivered.started = std::holds_alternative<TreeStarted>(event.event);
  delivered.ended =
      std::holds_alternative<TreeFinished>(event.event) || std::holds_alternative<Error>(event.event);
  if (const auto* delta = std::get_if<TreeDelta>(&event.event);
      delta != nullptr && client.first_token_us == 0) {
    for (const BranchDelta& branch : delta->branches) {
      if (client.generates[static_cast<size_t>(branch.node)]) client.first_token_us = since_submit_us;
    }
  }
  if (auto* finished = std::get_if<TreeFinished>(&event.event)) {
    finished->usage.first_token_us = client.first_token_us;
    finished->usage.total_us = since_submit_us;
  }
  client.sink->OnEvent(std::move(event.event));
  if (!delivered.started && !delivered.ended) return delivered;
  delivered.left_queue = !std::exchange(client.started, true);
  if (!delivered.ended) return delivered;
  if (client.sink->HasUnread()) {
    changed_[client.peer] = ++unread_of_[client.peer];
    unread_.emplace_back(client.peer, client.sink);
  }
  clients_.erase(it);
  return delivered;
}

std::map<std::string, int32_t> EventDelivery::TakeUnreadChanges() {
  std::erase_if(unread_, [this](const auto& entry) {
    if (const auto sink = entry.second.lock(); sink && sink->HasUnread()) return false;
    const auto of = unread_of_.find(entry.first);
    changed_[entry.first] = --of->second;
    if (of->second == 0) unread_of_.erase(of);
    return true;
  });
  return std::exchange(changed_, {});
}

void EventDelivery::EndAll(const Error& error) {
  for (const auto& [id, client] : clients_) client.sink->OnEvent(error);
  clients_.clear();
}

}  // namespace espalier
