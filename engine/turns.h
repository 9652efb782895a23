#pragma once

#include <cstdint>
#include <vector>

#include "engine/request_table.h"
#include "engine/scheduling_policy.h"

namespace espalier {

// The order in which requests get rows: the first request of each peer, then the second of each, and so on;
// by precedence where that is equal. And how many of them steps have rows for. Not thread-safe.
class Turns {
 public:
  struct Turn {
    int32_t rank = 0;  // among the requests of its peer
    Precedence place;
    ScheduledRequest* request = nullptr;  // while the step is planned
    int64_t rows = 0;                     // that it wants a step
  };

  // Both outlive this.
  Turns(const SchedulingPolicy& policy, int32_t max_batch_rows, const RequestTable* requests)
      : policy_(policy), max_batch_rows_(max_batch_rows), requests_(*requests) {}

  // Whether one more request gets rows when so many run and want so many. Where steps are full, it makes all
  // others slower, finishes no earlier itself, and cuts what each gains in a step into slivers.
  bool HasRowsToSpare(int32_t requests, int64_t rows_wanted) const;
  // Whether the requests that come before it leave it rows.
  bool HasTurn(const ScheduledRequest& request) const;

  // A request is about to be admitted.
  void Add(ScheduledRequest* request);
  // The admitted requests, in order, for the step being planned; their wishes are yet to be set.
  std::vector<Turn>& Renew();
  int32_t size() const { return static_cast<int32_t>(turns_.size()); }

 private:
  const SchedulingPolicy& policy_;
  int32_t max_batch_rows_;
  const RequestTable& requests_;
  std::vector<Turn> turns_;  // of the requests admitted in the last step planned, and of those since
};

}  // namespace espalier
