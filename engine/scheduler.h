#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/admission.h"
#include "engine/engine_stats.h"
#include "engine/event_log.h"
#include "engine/memory_pressure.h"
#include "engine/request_table.h"
#include "engine/row_scheduler.h"
#include "engine/scheduler_options.h"
#include "engine/sequence_opener.h"
#include "engine/sequence_slots.h"
#include "engine/step_builder.h"
#include "engine/tail_nodes.h"
#include "engine/tree_updater.h"
#include "engine/turns.h"
#include "engine/usage_meter.h"
#include "kernels/step_input.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

// Decides what runs: a pure state machine without clock, thread or device.
//
// The life of a request, and the room that sees to each part of it:
//  1. Submit queues it (RequestTable). Next admits it when its blocks fit (Admission): TreeStarted; branch 0
//     and all given nodes that follow from it become branches. Where steps have no rows to spare (Turns), it
//     waits once its first tokens are sampled.
//  2. A sequence that must run gets a tail node (SequenceOpener): its path is opened with what is cached;
//     branches of a generated parent fork the parent's tail node (the last of them takes it over). Who holds
//     tail nodes is TailNodes' business.
//  3. Prefill: rows of the path's nodes are issued in chunks (RowScheduler shares them out, StepBuilder
//     issues them). With the row of the path's last token, the first tokens of all branches generated below
//     it are sampled from one row of logits.
//  4. Decode: one row a step; the next row refers to the sequence's slot (SequenceSlots), so that a second
//     step can be issued before the first one's tokens are known, unless the sequence awaits the result.
//  5. Commit hands tokens to branches (TreeUpdater): text, stop conditions, scores: TreeDelta (EventLog). A
//     branch that ends spawns its children; a barrier whose branches have all ended is resolved:
//     TreeSelected.
//  6. Short of blocks (MemoryPressure): evict, wait for retiring blocks, drop tail nodes of idle sequences,
//     preempt the last request; of several peers, those that hold more than an equal share give way to those
//     that hold less. A branch that lost its tail node is opened again later by its tokens, and continues.
//  7. Nothing left to run: TreeFinished. Everything it held is released; whole blocks stay in the index.
//
// Usage: while (auto step = Next()) runner.Issue(step); Commit(runner.Wait()); TakeEvents() after each call.
class Scheduler {
 public:
  // `tokenizer` may be null: no text.
  Scheduler(SchedulerOptions options, std::shared_ptr<const Tokenizer> tokenizer);
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // The part of Submit that takes time with a large request. Thread-safe. Precondition: ValidateTreeRequest.
  std::shared_ptr<ScheduledRequest> Prepare(TreeRequest request) const;
  // Each id only once.
  void Submit(uint64_t id, std::shared_ptr<ScheduledRequest> request);
  void Submit(uint64_t id, TreeRequest request) { Submit(id, Prepare(std::move(request))); }
  // The client of a request that stays open asks for nothing more: it ends as soon as all of it is there. No
  // effect on unknown ids.
  void Close(uint64_t id);
  // Ends a request now, with Error kCancelled. No effect on unknown ids.
  void Cancel(uint64_t id) { Abort(id, {ErrorCode::kCancelled, "", "the request was cancelled"}); }
  void Abort(uint64_t id, const Error& reason);  // the same, with another error
  // Ends every request with this error (the device is lost). Next returns nothing from then on.
  void FailAll(const Error& error);

  // The next step, or null: steps_in_flight are out, or nothing can run before the next Commit or Submit, or,
  // where expanding(), before Next has been called again: a tree with very many selections expands a piece
  // at a time, so that others get their steps in between.
  std::shared_ptr<const StepInput> Next();
  bool expanding() const { return updater_.expanding() && requests_.runnable(); }
  // The result of the oldest step in flight.
  void Commit(const StepResult& result);

  // So many answers of ended requests of this peer are not read yet: they count as requests that run.
  void SetUnread(const std::string& peer, int32_t answers) { requests_.SetUnread(peer, answers); }

  // Events since the last call, in order.
  std::vector<RequestEvent> TakeEvents() { return events_.TakeEvents(); }

  // Of the steps planned from now on. What is cached stays.
  void SetAttentionMode(AttentionMode mode) { options_.plan.mode = mode; }

  int32_t steps_in_flight() const { return static_cast<int32_t>(in_flight_.size()); }
  bool idle() const { return requests_.empty(); }  // no request
  // Whether there are requests that do not wait for their clients. Those can always go on: where none is in
  // flight and nothing grows, Next returns a step.
  bool runnable() const { return requests_.runnable(); }
  // All but step_us, forward_us, attention_us, deliver_us and idle_us.
  EngineStats Stats() const;
  TreeSnapshot Snapshot() const;
  int32_t FlushCache();  // freed blocks

  std::vector<int32_t> FreeBlocks() const;  // ids that must not be used before they are zeroed again

  // Steps of work that must not grow with the square of anything: for tests.
  int64_t looked_at_for_room() const { return pressure_.looked_at(); }

  // free + indexed + live = total, every block one owner, and all else that KvTree::Check proves.
  Status CheckInvariants() const { return tails_.kv().Check(); }

 private:
  std::shared_ptr<const StepInput> PlanStep();
  void CheckStep(const StepInput& input) const;

  SchedulerOptions options_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const TreeContext context_;

  // The rooms. Each uses only those above it.
  EventLog events_;
  UsageMeter usage_;
  SequenceSlots sequence_slots_;
  RequestTable requests_;
  TailNodes tails_;
  MemoryPressure pressure_;
  SequenceOpener opener_;
  TreeUpdater updater_;
  Turns turns_;
  Admission admission_;
  StepBuilder builder_;
  RowScheduler rows_;

  std::deque<StepRecord> in_flight_;
  uint64_t step_ = 0;  // last issued
  bool failed_ = false;
};

}  // namespace espalier
