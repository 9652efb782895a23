#pragma once

#include <cstdint>

#include "engine/tree_request.h"
#include "kernels/plan/attention_plan.h"

namespace espalier {

struct EngineOptions {
  int32_t block_tokens = 16;
  int32_t total_blocks = 0;                        // of the runner's KV pool
  int32_t max_branches = 1024;                     // per request
  int32_t max_batch_rows = 512;                    // rows of a step; the runner was made for at least as many
  int32_t prefill_chunk_tokens = 256;              // prefill rows of a step while branches decode
  int32_t max_queued_requests = 1024;              // more are refused with kResourceExhausted
  int64_t max_answer_bytes = kDefaultAnswerBytes;  // larger answers are refused
  AttentionMode attention_mode = AttentionMode::kFlatten;
  bool check_invariants = false;  // full check of blocks, batch and plan in every step
};

}  // namespace espalier
