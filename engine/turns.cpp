#include "engine/turns.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace espalier {

bool Turns::HasRowsToSpare(int32_t requests, int64_t rows_wanted) const {
  const auto full_rows = static_cast<int64_t>(policy_.full_step_ratio * max_batch_rows_);
  return requests < policy_.min_side_by_side_requests || rows_wanted < full_rows;
}

bool Turns::HasTurn(const ScheduledRequest& request) const {
  const std::pair place(requests_.peers().running(request.peer()), request.place.precedence());
  int32_t before = 0;
  int64_t rows_wanted = 0;
  for (const Turn& turn : turns_) {
    if (std::pair(turn.rank, turn.place) > place) continue;
    ++before;
    rows_wanted += turn.rows;
  }
  return HasRowsToSpare(before, rows_wanted);
}

void Turns::Add(ScheduledRequest* request) {
  turns_.push_back({requests_.peers().running(request->peer()), request->place.precedence(), request,
                    request->first_rows});
}

std::vector<Turns::Turn>& Turns::Renew() {
  turns_.clear();
  std::unordered_map<int32_t, int32_t> next_rank;  // by peers
  int32_t admitted = requests_.admitted();
  for (auto it = requests_.by_precedence().begin(); admitted > 0; ++it) {
    ScheduledRequest& request = *it->second;
    if (!request.place.admitted()) continue;
    --admitted;
    const int32_t unread = requests_.peers().unread(request.peer());
    const int32_t rank = next_rank.try_emplace(request.peer(), unread).first->second++;
    turns_.push_back({rank, request.place.precedence(), &request, 0});
  }
  std::stable_sort(turns_.begin(), turns_.end(),
                   [](const Turn& a, const Turn& b) { return a.rank < b.rank; });
  return turns_;
}

}  // namespace espalier
