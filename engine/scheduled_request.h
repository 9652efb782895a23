#pragma once

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "engine/precedence.h"
#include "engine/request_tree.h"
#include "engine/tree_event.h"

namespace espalier {

// A request from Submit to its last event: its tree, and what each of the scheduler's rooms keeps of it. A
// room's part is written by that room alone, its friend; the others read it.

// RequestTable's part: its place among the others.
class TablePlace {
 public:
  uint64_t id() const { return id_; }
  const Precedence& precedence() const { return precedence_; }
  int32_t peer() const { return peer_; }             // handle of PeerShares
  bool admitted() const { return admitted_; }        // may hold tail nodes
  int32_t wanted_blocks() const { return blocks_; }  // to wait for before it is admitted

 private:
  friend class RequestTable;
  uint64_t id_ = 0;
  Precedence precedence_;
  bool suspended_ = false;
  int32_t peer_ = -1;
  bool admitted_ = false;
  int32_t blocks_ = 0;
};

// TailNodes' part: what is in memory, and which sequences may want rows.
class TailHolder {
 public:
  int32_t cache_namespace() const { return space_; }                 // cache namespace
  const std::set<int32_t>& in_memory() const { return in_memory_; }  // sequences with a tail node

 private:
  friend class TailNodes;
  int32_t space_ = -1;
  std::set<int32_t> in_memory_;
  std::vector<int32_t> work_;  // sequences that may want rows, by number
  bool work_sorted_ = true;
};

// MemoryPressure's part.
class PressureClaim {
 public:
  // Found no blocks in the last step, and may take them from others.
  bool comes_first() const { return comes_first_; }

 private:
  friend class MemoryPressure;
  bool comes_first_ = false;
  // Of its sequences from this number on, none can be parked any more in the step.
  uint64_t parked_step_ = 0;
  int32_t parked_from_ = 0;
};

// SequenceOpener's part, of the step being planned.
class OpenSequences {
 private:
  friend class SequenceOpener;
  int32_t running_ = 0;   // sequences with rows to issue and a tail node
  bool no_room_ = false;  // one was denied a tail node
};

// StepBuilder's part: what steps have been given of it.
class IssuedWork {
 public:
  bool has_sampled() const { return has_sampled_; }  // a first token has been sampled
  uint64_t last_step() const { return last_step_; }  // the last step with a row of it

 private:
  friend class StepBuilder;
  bool has_sampled_ = false;
  uint64_t last_step_ = 0;
};

// EventLog's part: what is to be reported.
class PendingReport {
 private:
  friend class EventLog;
  std::vector<BranchDelta> deltas_;  // of the step being committed
  std::vector<int32_t> delta_of_;    // [branches] index into deltas_, -1: none
  bool touched_ = false;             // is in EventLog's list
};

// UsageMeter's part.
class MeteredUsage {
 private:
  friend class UsageMeter;
  TreeUsage usage_;
  uint64_t counted_step_ = 0;   // the last step in usage_.steps
  double kv_read_bytes_ = 0.0;  // shares, rounded at the end
  double kv_read_bytes_sequence_ = 0.0;
};

// TreeUpdater's part.
class PendingUpdate {
 private:
  friend class TreeUpdater;
  std::vector<int32_t>
      to_update_;  // sequences whose tail node may have become needless, or that may want rows
};

struct ScheduledRequest {
  ScheduledRequest(TreeRequest request, const TreeContext* context, int32_t wanted_rows)
      : tree(std::move(request), context), first_rows(wanted_rows) {}

  uint64_t id() const { return place.id(); }
  int32_t peer() const { return place.peer(); }
  Sequence& sequence(int32_t number) { return tree.sequences().at(number); }
  const Sequence& sequence(int32_t number) const { return tree.sequences().at(number); }
  // Whether the sequence has rows to issue that it can issue without waiting for results.
  bool Wants(const Sequence& sequence) const;

  RequestTree tree;
  const int32_t first_rows;  // rows that it will want a step until a first token has been sampled
  bool started = false;      // TreeStarted is out (Admission)

  TablePlace place;
  TailHolder tails;
  PressureClaim pressure;
  OpenSequences open;
  IssuedWork issued;
  PendingReport report;
  MeteredUsage usage;
  PendingUpdate update;
};

// A sequence that could have rows in the step being planned.
struct Candidate {
  ScheduledRequest* request = nullptr;
  Sequence* sequence = nullptr;
};

}  // namespace espalier
