#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace espalier::bench {

enum class Workload : uint8_t { kFewShot, kMultiStep, kMixed };
const char* Name(Workload workload);

// What the trees of a workload look like.
struct TreeShapeOptions {
  std::string prompts = "auto";  // auto, demo, tokens
  int32_t prompt_tokens = 384;   // of a few-shot prompt of random tokens
  int32_t branches = 16;         // of a few-shot tree
  int32_t new_tokens = 40;       // of each of them, at most
};

struct ServeOptions {
  std::string server;
  std::string admin;  // where its AdminService is; empty: where the server says
  std::vector<Workload> workloads;
  std::vector<int32_t> clients;     // closed loop: a run for each number. Empty with `rates`: no bound
  std::vector<double> rates;        // open loop: arrivals a second, a run for each. Empty: closed loop
  std::optional<int32_t> requests;  // of a run
  double duration_s = 0.0;          // a run sends for so long; 0: until its requests are sent
  double deadline_s = 120.0;        // of a request
  int32_t channels = 4;             // connections
  int32_t server_pid = 0;    // of the server, where it runs on this machine; 0: its time is not measured
  uint64_t seed = 1;         // of requests and arrivals
  bool flush_cache = false;  // empties the server's prefix cache before each run
  TreeShapeOptions shape;
};

}  // namespace espalier::bench
