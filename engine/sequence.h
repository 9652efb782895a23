#pragma once

#include <cstdint>
#include <vector>

#include "engine/branch.h"
#include "engine/given_runs.h"

namespace espalier {

// Sequences below this number are those of branches, and have the branches' numbers; the others are runs.
inline constexpr int32_t kFirstRun = int32_t{1} << 30;

// What a sequence computes.
enum class SequenceWork : uint8_t {
  kNone,    // a given branch: runs carry its tokens
  kAwait,   // its first token will be sampled with the row of its parent's last token
  kDecode,  // generates
  kRead,    // a run: rows of given tokens
};

// What is scheduled: tokens whose rows are computed on a path, and what is sampled from them. A generated
// branch has one, and so has a *run* (given_runs.h), which is no part of the answer. That of a given branch
// computes nothing: its `source` holds its tokens.
//
// Every group of fields has one writer.
struct Sequence {
  // What it is, and what it continues (SequenceForest).
  int32_t number = 0;
  int32_t parent = -1;             // the sequence that holds the tokens before it; -1: none
  int32_t node = 0;                // of the request; of a run: one of the given nodes that need it
  const Branch* answer = nullptr;  // null: a run
  const Run* run = nullptr;        // runs only
  int32_t group = -1;              // given branches and runs: their group of runs
  int32_t start_position = 0;
  std::vector<int32_t> run_tokens;  // runs only
  int32_t source = -1;              // whose tail node this one continues; -1: opened by its tokens
  bool tail_counted = false;        // the row of its last token is in SequenceForest::distinct_tokens()
  int32_t barriers = 0;             // unresolved selections of the branches whose tokens it holds

  // What it has to compute (SequenceForest sets it up, StepBuilder works it off).
  SequenceWork work = SequenceWork::kNone;
  bool awaits_result = false;     // its next row depends on the last result: one step in flight at most
  bool tail_pending = false;      // generated: the row of its last token has to be run: first tokens of
                                  // children are sampled from it
  std::vector<int32_t> awaiting;  // the children whose first tokens those will be
  int32_t sequence_slot = -1;     // on the device, from the first sample to the end
  int32_t sampled = 0;            // tokens sampled by issued steps: size() of them are known
  int32_t uses_issued = 0;        // leading ones of run->uses
  bool read_done = false;         // kRead: all rows have been issued
  bool read_committed = false;    // kRead: all rows have been computed
  uint64_t last_step = 0;         // the last step that holds a row of it

  // Where it is (TailNodes).
  int32_t tail = -1;            // KV tail node; -1: not in memory, or not begun
  bool path_issued = false;     // every node above the tail node is completely issued
  bool claims_source = false;   // counted in the source's `continuations`
  int32_t continuations = 0;    // sequences that have yet to continue this one's tail node
  bool cached_counted = false;  // runs: its cached tokens are in the usage
  bool listed = false;          // in the request's list of sequences that may want rows

  const std::vector<int32_t>& tokens() const { return answer != nullptr ? answer->tokens : run_tokens; }
  int32_t size() const { return static_cast<int32_t>(tokens().size()); }
  int32_t end_position() const { return start_position + size(); }
  bool dead() const { return answer != nullptr && answer->dead; }
  // No token of it will change or be added, and no result is awaited.
  bool finished() const { return answer != nullptr ? answer->finished : read_committed; }
  bool generates() const { return work == SequenceWork::kAwait || work == SequenceWork::kDecode; }
};

}  // namespace espalier
