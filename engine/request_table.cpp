#include "engine/request_table.h"

#include <utility>

namespace espalier {

void RequestTable::Add(uint64_t id, int32_t wanted_blocks, std::shared_ptr<ScheduledRequest> request) {
  request->place.id_ = id;
  Arrive(request.get(), wanted_blocks);
  const bool added = requests_.emplace(id, std::move(request)).second;
  ESPALIER_CHECK(added);
}

void RequestTable::Arrive(ScheduledRequest* request, int32_t wanted_blocks) {
  const TreeRequest& content = request->tree.request();
  TablePlace& place = request->place;
  place.precedence_ = {content.priority, ++arrivals_};
  place.blocks_ = wanted_blocks;
  place.peer_ = peers_.Submit(content.peer, place.precedence_);
  order_.emplace(place.precedence_, request);
}

void RequestTable::Depart(ScheduledRequest* request) {
  TablePlace& place = request->place;
  peers_.End(place.peer_, place.precedence_, place.blocks_, place.admitted_);
  place.admitted_ = false;
  order_.erase(place.precedence_);
}

void RequestTable::Admit(ScheduledRequest* request) {
  TablePlace& place = request->place;
  peers_.Admit(place.peer_, place.precedence_, place.blocks_);
  place.admitted_ = true;
}

void RequestTable::Withdraw(ScheduledRequest* request, int32_t wanted_blocks) {
  TablePlace& place = request->place;
  peers_.Preempt(place.peer_, place.precedence_, place.blocks_);
  place.admitted_ = false;
  place.blocks_ = wanted_blocks;
}

void RequestTable::Suspend(ScheduledRequest* request) {
  ESPALIER_CHECK(!request->place.suspended_ && request->tails.in_memory().empty());
  Depart(request);
  request->place.suspended_ = true;
}

void RequestTable::Resume(ScheduledRequest* request, int32_t wanted_blocks) {
  ESPALIER_CHECK(request->place.suspended_);
  request->place.suspended_ = false;
  Arrive(request, wanted_blocks);
}

std::shared_ptr<ScheduledRequest> RequestTable::Remove(ScheduledRequest* request) {
  if (!request->place.suspended_) Depart(request);
  if (found_ == request) found_ = nullptr;
  return std::move(requests_.extract(request->id()).mapped());
}

ScheduledRequest* RequestTable::FirstAdmitted() const {
  for (const auto& [place, request] : order_) {
    if (request->place.admitted()) return request;
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
