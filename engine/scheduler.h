#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/tree_event.h"
#include "engine/tree_request.h"
#include "kernels/step_input.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

struct SchedulerOptions {
  EngineOptions engine;
  AttentionShape attention;
  PlanOptions plan;             // of the backend; the mode is taken from engine.attention_mode
  int32_t steps_in_flight = 1;  // 1 or 2
  int32_t max_path_tokens = 2048;
  std::vector<int32_t> eos_token_ids;
  uint64_t shuffle_seed = 0;        // tests: not 0 permutes the order of trees and siblings in each batch
  std::function<int64_t()> now_us;  // for EngineStats::plan_us only; may be empty
};

struct ScheduledRequest;  // a request and its tree, private to the scheduler

struct RequestEvent {
  RequestEvent(uint64_t id, TreeEvent happened) : request_id(id), event(std::move(happened)) {}

  uint64_t request_id = 0;
  TreeEvent event;
};

// Decides what runs: a pure state machine without clock, thread or device.
//
// The life of a request:
//  1. Submit queues it. Next admits it when its blocks fit: TreeStarted; branch 0 and all given nodes that
//     follow from it become branches. Where steps have no rows to spare, it waits once its first tokens are
//     drawn.
//  2. A branch that must run gets a leaf: OpenPath finds what is cached; branches of a generated parent fork
//     the parent's leaf (the last of them takes it over).
//  3. Prefill: rows of the path's nodes are issued in chunks. With the row of the path's last token, the
//     first tokens of all branches generated below it are drawn from one row of logits.
//  4. Decode: one row a step; the next row refers to the branch slot, so that a second step can be issued
//     before the first one's tokens are known.
//  5. Commit hands tokens to branches: text, stop conditions, scores: TreeDelta. A branch that ends spawns
//     its children; a barrier whose branches have all ended is resolved: TreeSelected.
//  6. Short of blocks: evict, wait for retiring blocks, drop leaves of idle branches, preempt the youngest
//     request; of several peers, those that hold more than an equal share give way to those that hold less.
//     Whatever lost its leaf is opened again later by its tokens, and continues.
//  7. Nothing left to run: TreeFinished. Everything it held is released; whole blocks stay in the index.
//
// Usage: while (auto step = Next()) runner.Issue(step); Commit(runner.Wait()); TakeEvents() after each call.
class Scheduler {
 public:
  // `tokenizer` may be null: no text.
  Scheduler(SchedulerOptions options, std::shared_ptr<const Tokenizer> tokenizer);
  ~Scheduler();

  // The part of Submit that takes time with a large request. Thread-safe. Precondition: ValidateTreeRequest.
  std::shared_ptr<ScheduledRequest> Prepare(TreeRequest request) const;
  // Ids ascend.
  void Submit(uint64_t id, std::shared_ptr<ScheduledRequest> request);
  void Submit(uint64_t id, TreeRequest request) { Submit(id, Prepare(std::move(request))); }
  // Ends a request now, with Error kCancelled. No effect on unknown ids.
  void Cancel(uint64_t id) { Abort(id, {ErrorCode::kCancelled, "", "the request was cancelled"}); }
  void Abort(uint64_t id, const Error& reason);  // the same, with another error
  // Ends every request with this error (the device is lost). Next returns nothing from then on.
  void FailAll(const Error& error);

  // The next step, or null: steps_in_flight are out, or nothing can run before the next Commit or Submit, or,
  // where growing(), before Next has been called again: a tree with very many selections grows a piece at a
  // time, so that others get their steps in between.
  std::shared_ptr<const StepInput> Next();
  bool growing() const;
  // The result of the oldest step in flight.
  void Commit(const StepResult& result);

  // So many answers of ended requests of this peer are not read yet: they count as requests that run.
  void SetUnread(const std::string& peer, int32_t answers);

  // Events since the last call, in order.
  std::vector<RequestEvent> TakeEvents();

  // Of the steps planned from now on. What is cached stays.
  void SetAttentionMode(AttentionMode mode);

  int32_t steps_in_flight() const;
  bool idle() const;  // no request
  // All but step_us, forward_us, attention_us, deliver_us and idle_us.
  EngineStats Stats() const;
  TreeSnapshot Snapshot() const;
  int32_t FlushCache();  // freed blocks

  std::vector<int32_t> FreeBlocks() const;  // ids that nobody may touch before they are zeroed again

  // free + indexed + live = total, every block one owner, and all else that KvTree::Check proves.
  Status CheckInvariants() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier
