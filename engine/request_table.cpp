#include "engine/request_table.h"

#include <string>
#include <utility>

namespace espalier {

void RequestTable::Add(uint64_t id, const std::string& peer, int32_t wanted_blocks,
                       std::shared_ptr<ScheduledRequest> request) {
  ESPALIER_CHECK(requests_.empty() || requests_.rbegin()->first < id);
  TablePlace& place = request->place;
  place.id_ = id;
  place.blocks_ = wanted_blocks;
  place.peer_ = peers_.Submit(peer, id);
  requests_.emplace(id, std::move(request));
}

void RequestTable::Admit(ScheduledRequest* request) {
  TablePlace& place = request->place;
  peers_.Admit(place.peer_, place.id_, place.blocks_);
  place.admitted_ = true;
}

void RequestTable::Withdraw(ScheduledRequest* request, int32_t wanted_blocks) {
  TablePlace& place = request->place;
  peers_.Preempt(place.peer_, place.id_, place.blocks_);
  place.admitted_ = false;
  place.blocks_ = wanted_blocks;
}

void RequestTable::Remove(ScheduledRequest* request) {
  const TablePlace& place = request->place;
  peers_.End(place.peer_, place.id_, place.blocks_, place.admitted_);
  if (found_ == request) found_ = nullptr;
  requests_.erase(place.id_);
}

ScheduledRequest* RequestTable::OldestAdmitted() const {
  for (const auto& [id, request] : requests_) {
    if (request->place.admitted()) return request.get();
  }
  return nullptr;
}

ScheduledRequest* RequestTable::Find(uint64_t id) {
  if (found_ != nullptr && found_->id() == id) return found_;
  const auto it = requests_.find(id);
  if (it == requests_.end()) return nullptr;
  found_ = it->second.get();
  return found_;
}

}  // namespace espalier
