#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/result.h"
#include "tests/bench/decode_options.h"
#include "tests/bench/report.h"

namespace espalier::bench {

struct ScoreOptions {
  ModelOptions model;
  int32_t prompt_tokens = 512;
  int32_t candidates = 100;
  int32_t candidate_tokens = 5;
  std::vector<AttentionMode> modes = {AttentionMode::kFlatten};
  int32_t max_rows = 512;  // of a step
  int32_t repeats = 3;
  uint64_t seed = 1;  // of weights and tokens

  int32_t max_positions() const { return prompt_tokens + candidate_tokens; }
  int32_t Blocks() const;
  int64_t MemoryBytes() const { return model.MemoryBytes(max_positions(), Blocks()); }
};

// `espalier-bench score`: candidates of random tokens, scored after one random prompt, end to end through
// scheduler and model. Three ways, in turn: all in one request; a request for each, one after the other, the
// first of which finds nothing in the cache and the others the prompt; the same without cache, of which only
// the first kUncachedCalls are run and the time is scaled. A row for each mode.
//
// Fields of a row: score_us, sequential_us, uncached_us: medians of the repeats; items_per_s: candidates over
// score_us; speedup = sequential_us / score_us, speedup_uncached = uncached_us / score_us; computed_tokens
// and distinct_tokens of the one request; kv_read_bytes and the like are sums over its steps.
inline constexpr int32_t kUncachedCalls = 4;
Result<Report> RunScore(const ScoreOptions& options);

}  // namespace espalier::bench
