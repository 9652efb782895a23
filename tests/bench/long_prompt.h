#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/result.h"
#include "tests/bench/decode_options.h"
#include "tests/bench/report.h"

namespace espalier::bench {

struct LongPromptOptions {
  ModelOptions model;
  int32_t branches = 50;          // that decode, below a prompt of their own
  int32_t long_tokens = 100'000;  // of the prompt that comes while they do
  int32_t cached_tokens = 0;      // of these, computed before: how deep in the prompt the figures are taken
  int32_t short_tokens = 20;      // of the prompt behind it
  int32_t steps = 200;            // of each phase
  int32_t prefill_chunk_tokens = 256;
  std::vector<AttentionMode> modes = {AttentionMode::kFlatten};
  int32_t repeats = 1;
  uint64_t seed = 1;  // of weights, prompts and sampling

  int32_t max_rows() const;
  int32_t max_positions() const;
  int32_t Blocks() const;
  int64_t MemoryBytes() const { return model.MemoryBytes(max_positions(), Blocks()); }
};

// `espalier-bench long-prompt`: what a long prompt costs those that decode at the same time, and those that
// come after it. Two phases of so many steps: the branches decode alone; then together with the long prompt,
// behind which, a quarter of the way, the short one comes. Once with prefill shared out by measured time, as
// the engine does, and once by rows alone; in turns, a row for each and for each mode. The run ends with the
// phases, not with the prompt.
//
// Fields of a row: alone_us: median step of the first phase; beside_us {median, p99}: of the second;
// p99_ratio: beside_us.p99 over alone_us; short_steps: steps from the short prompt's arrival to its first
// token, the longest of the repeats (-1: there was none); prefill_tokens_per_s: of the long prompt, in the
// second phase.
Result<Report> RunLongPrompt(const LongPromptOptions& options);

}  // namespace espalier::bench
