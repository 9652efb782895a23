#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/bench/serve_check.h"
#include "tests/bench/serve_workload.h"

namespace espalier::bench {

// One run against the server.
struct LoadPlan {
  Workload workload = Workload::kFewShot;
  std::optional<int32_t> clients;  // requests under way at one time, at most; none: no bound
  double rate = 0.0;               // arrivals a second; 0: closed loop
  std::optional<int32_t> requests;
  double duration_s = 0.0;  // of sending; 0: until all requests are sent
  double deadline_s = 0.0;  // of a request
  uint64_t seed = 0;        // of its requests and arrivals
};

struct LoadOutcome {
  double duration_s = 0.0;  // from the first request to the last answer
  int32_t requests_sent = 0;
  int32_t requests_ok = 0;
  int32_t requests_done = 0;              // ended with status OK, sound or not
  std::map<std::string, int32_t> errors;  // by the name of the code
  int64_t output_tokens = 0;              // of calls that ended well
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t generated_tokens = 0;             // by the usage that the server reported
  std::vector<double> first_token_us;       // of requests with generated tokens
  std::vector<double> per_output_token_us;  // of requests with paths of two and more
  std::vector<double> total_us;
  std::vector<double> server_first_token_us;
  double most_late_us = 0.0;  // the most that this program was behind an arrival
  int32_t fault_count = 0;
  std::vector<std::string> faults;  // the first few
};

// Runs `plan` on one thread and one completion queue, over all channels in turn, until every call has ended.
LoadOutcome RunLoad(const LoadPlan& plan, const WorkloadSource& source,
                    const std::vector<std::shared_ptr<grpc::Channel>>& channels);

}  // namespace espalier::bench
