#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "engine/engine_options.h"
#include "engine/engine_stats.h"
#include "engine/tree_event.h"
#include "engine/tree_request.h"
#include "kernels/base/result.h"
#include "model/model_runner.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

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

  // The client of a request that stays open (TreeRequest::stays_open) asks for nothing more: the request ends
  // as soon as all of it is there. No effect once it has ended.
  virtual void Close(uint64_t request_id) = 0;

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
