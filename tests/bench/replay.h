#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/result.h"
#include "tests/bench/decode_options.h"
#include "tests/bench/recorded_trees.h"
#include "tests/bench/report.h"

namespace espalier::bench {

// Runs that are replayed together: a file's, or one tree.
struct ReplayWorkload {
  std::string name;
  std::vector<RecordedTree> trees;
  int32_t skipped_trees = 0;
};

struct ReplayOptions {
  ModelOptions model;
  std::vector<ReplayWorkload> workloads;
  int32_t windows = 3;        // of a workload, evenly spread over the steps of all its trees
  int32_t window_steps = 16;  // steps of decoding that each window holds at most
  int32_t repeats = 3;        // of each window, all modes in turn
  std::vector<AttentionMode> modes;
  int32_t prefill_chunk_tokens = 512;
  uint64_t seed = 1;
};

// `espalier-bench replay`: trees end to end through scheduler and model as the server runs them. What a tree
// held when a window begins is computed before, and found in the cache but for the last block of each branch;
// then the window is decoded step by step, branches ending and forking as recorded: in each repeat by every
// mode in turn, so that a machine that changes pace changes it for all of them. A row for each workload and
// mode.
//
// Fields of a row: sums over the steps of decoding of all windows, of each step the repeat that took the
// median time. decode_us, what a client waits; forward_us, attention_us and what is made of them, the
// device's own times (step_cost.h: AddReached); outside_forward_us and plan_us; weights, weight_bytes,
// kv_read_bytes, flop and the like as `decode` has them; roofline_ratio = roofline_us / decode_us.
// speedup_over_sequence: of decode_us; attention_speedup_over_sequence: of attention_us; null where
// `sequence` did not run. tokens_per_s: sampled tokens over decode_us.
//
// Progress goes to standard error. Errors name the flag at fault where there is one.
Result<Report> RunReplay(const ReplayOptions& options);

}  // namespace espalier::bench
