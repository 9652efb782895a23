#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/tree_event.h"
#include "engine/tree_request.h"
#include "kernels/base/result.h"
#include "kernels/plan/attention_plan.h"
#include "model/model_runner.h"
#include "model/tokenizer/tokenizer.h"

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

struct EngineStats {
  int32_t block_tokens = 0;
  int32_t blocks_total = 0;
  int32_t blocks_free = 0;      // free + indexed + live + scratch = total
  int32_t blocks_indexed = 0;   // hold cached prefixes that no branch uses
  int32_t blocks_live = 0;      // used by branches, or still read by steps in flight
  int32_t blocks_scratch = 0;   // of speculative rows: 0 as long as nothing drafts
  int32_t requests_active = 0;  // running or waiting
  int32_t requests_queued = 0;  // thereof waiting for admission
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
  int64_t plan_us = 0;       // thereof batch and attention plan
  int64_t forward_us = 0;    // the forward pass
  int64_t attention_us = 0;  // thereof tree attention
  // The thread's time beside its steps.
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

// Serves many tree requests on one model. One thread of its own runs the steps and owns scheduler, KV tree
// and runner; every public function is thread-safe.
class Engine {
 public:
  // The runner has a KV pool of options.total_blocks blocks of options.block_tokens. `tokenizer` may be null:
  // then deltas carry no text and stop strings are refused.
  static Result<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                std::unique_ptr<ModelRunner> runner,
                                                std::shared_ptr<const Tokenizer> tokenizer);
  virtual ~Engine() = default;  // stops the thread; requests still running end with kUnavailable

  virtual const ModelInfo& model() const = 0;
  virtual const EngineLimits& limits() const = 0;

  // Validates and queues a request; the sink is called until its last event, and released after it. Refused:
  // what ValidateTreeRequest refuses; kResourceExhausted when the queue is full; kUnavailable when stopping.
  // Where the queue is full and another peer has more requests in it, the newest of those ends instead, with
  // kResourceExhausted and no event before it.
  virtual Result<uint64_t> Submit(TreeRequest request, std::shared_ptr<TreeEventSink> sink) = 0;

  // Ends a request within one step: everything that only it used is released and its last event is Error
  // kCancelled. No effect once it has ended.
  virtual void Cancel(uint64_t request_id) = 0;

  virtual EngineStats Stats() const = 0;
  virtual TreeSnapshot Snapshot() const = 0;

  // Drops every cached prefix that no branch uses; returns how many blocks became free.
  virtual int32_t FlushCache() = 0;

  // No new requests from now on; those running or queued may still finish within `timeout_us`, then they end
  // with kUnavailable. Returns when the last has ended.
  virtual void Drain(int64_t timeout_us) = 0;

  // `handler` is called once, from the engine's thread or from this call, when the engine can run nothing any
  // more because the device is lost: requests end with an error, new ones get kUnavailable. It must not call
  // the engine. The handler set before is not called once this has returned.
  virtual void OnFailure(std::function<void(const Error&)> handler) = 0;

  // About when a full queue will take a request again, from the recent rate of requests that were started.
  virtual int64_t RetryAfterMs() const = 0;
};

}  // namespace espalier
