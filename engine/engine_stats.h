#pragma once

#include <cstdint>
#include <vector>

namespace espalier {

struct EngineStats {
  int32_t block_tokens = 0;
  int32_t blocks_total = 0;
  int32_t blocks_free = 0;      // free + indexed + live + scratch = total
  int32_t blocks_indexed = 0;   // hold cached prefixes that no branch uses
  int32_t blocks_live = 0;      // used by branches, or still read by steps in flight
  int32_t blocks_scratch = 0;   // of speculative rows: 0 as long as nothing drafts
  int32_t requests_active = 0;  // running or waiting, for admission or for their clients
  int32_t requests_queued = 0;  // of these: waiting for admission
  int32_t peers_active = 0;     // with such requests
  int32_t branches_active = 0;
  int64_t steps = 0;
  int64_t preemptions = 0;
  int64_t evicted_blocks = 0;
  int64_t cancelled = 0;  // requests
  int64_t finished = 0;   // requests
  int64_t computed_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t kv_read_bytes = 0;
  int64_t kv_read_bytes_sequence = 0;
  // Where the time of steps goes, summed.
  int64_t step_us = 0;       // from the start of planning a step to its commit
  int64_t plan_us = 0;       // part of it: batch and attention plan
  int64_t forward_us = 0;    // the forward pass
  int64_t attention_us = 0;  // part of it: tree attention
  // The thread's time between its steps.
  int64_t deliver_us = 0;  // handing out events
  int64_t idle_us = 0;     // waiting for requests
};

// A node of the KV tree as it stands, for inspection.
struct KvNodeSnapshot {
  int32_t id = 0;
  int32_t parent = -1;
  int32_t begin_position = 0;
  int32_t tokens = 0;
  int32_t computed_tokens = 0;
  int32_t blocks = 0;
  int32_t pins = 0;
  bool indexed = false;
  std::vector<int32_t> first_token_ids;  // at most 16
};

struct TreeSnapshot {
  std::vector<KvNodeSnapshot> nodes;  // parents first
};

}  // namespace espalier
