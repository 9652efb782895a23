#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/plan/attention_plan.h"
#include "tests/bench/report.h"
#include "tests/bench/tree_shape.h"

namespace espalier::bench {

// One row of the report for each mode: steps whose times are added up.
struct AttentionWorkload {
  std::string name;
  std::vector<TreeShape> steps;  // one, but for recorded trees
  int32_t trees = 1;
  int32_t skipped_trees = 0;
};

// Times of kernels that ran elsewhere, for one workload: [name] microseconds of one layer and one step.
using PeerTimes = std::map<std::string, double>;

// An entry of a list of times (time_list.h).
struct PeerEntry {
  std::string workload;
  Json shape;  // those fields that were given
  PeerTimes times_us;
};

struct AttentionOptions {
  std::vector<AttentionWorkload> workloads;
  AttentionShape shape;  // without layers
  BackendOptions backend;
  int32_t layers = 0;  // 0: as many as make `cold_bytes` of KV
  int64_t cold_bytes = int64_t{512} << 20;
  int32_t block_tokens = 16;
  bool scatter_blocks = false;  // blocks in random order, as a pool may have them after much use
  int32_t processors = 0;       // 0: what the backend says
  std::vector<AttentionMode> modes;
  int32_t repeats = 5;
  int32_t checked_rows = 4;
  int64_t peak_buffer_bytes = int64_t{512} << 20;  // memory that is read to measure the machine's bandwidth
  // backend cuda: what the GPU reaches, measured by another program
  double peak_gb_per_s = 0.0;
  double peak_tflop_per_s = 0.0;
  std::vector<PeerEntry> peers;  // times of other kernels, measured elsewhere
};

}  // namespace espalier::bench
