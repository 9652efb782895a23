#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/branch_text.h"
#include "engine/given_runs.h"
#include "engine/tree_event.h"
#include "engine/tree_request.h"

namespace espalier {

inline constexpr int32_t kFirstRun = int32_t{1} << 30;

// What a branch does by itself.
enum class BranchWork : uint8_t {
  kNone,    // a given node: runs carry its tokens
  kAwait,   // its first token will be drawn with the row of its parent's last token
  kDecode,  // generates
  kRead,    // a run: rows of given tokens
};

// Sampling state at a tip, and an instance of a TreeNodeSpec. First what belongs to the answer (written by
// RequestTree), then what belongs to running it (written by Scheduler).
//
// A *run* (given_runs.h) is a Branch too, so that it is scheduled, continued and parked like any other. It is
// no part of the answer: its numbers begin at kFirstRun, its node is one of the given nodes that need it.
struct Branch {
  int32_t number = 0;
  int32_t parent = -1;  // branch; -1 for the root. Of a run: what holds the tokens before it
  int32_t node = 0;
  int32_t siblings = 0;  // see SelectCandidate::group
  uint64_t stream = 0;
  int32_t start_position = 0;   // of its first token
  std::vector<int32_t> tokens;  // of this branch alone; known ones
  std::vector<float> logprobs;  // [tokens] of generated ones, if TreeRequest::return_logprobs
  std::string text;
  BranchText decoder;
  FinishReason reason = FinishReason::kNone;
  bool finished = false;  // its tokens, and scores if asked for, are complete
  bool dead = false;      // no room on its path, or an error: what is below it has no tokens
  bool pruned = false;    // by a selection at its node
  int32_t children = 0;   // branches
  int32_t barriers = 0;   // selections that it takes part in and that are not resolved; of a run: of all
                          // given branches that are continued from its end
  // Sum and number of generated tokens along the path from the root, this branch included.
  double sum_logprob = 0.0;
  int64_t generated_tokens = 0;
  double verdict = 0.0;  // scored given: sum of its own log-probabilities; -infinity where they are not known

  BranchWork work = BranchWork::kNone;
  bool scored = false;        // given, and its log-probabilities are asked for
  bool tail_pending = false;  // generated: the row of its last token has to be run: first tokens of children
                              // are drawn from it
  bool tail_counted = false;  // that row is in RequestTree::distinct_tokens()
  std::vector<int32_t> awaiting;    // the children whose first tokens those will be
  int32_t group = -1;               // given, and runs: index into RequestTree's groups of runs
  const Run* run = nullptr;         // runs only
  int32_t uses_issued = 0;          // leading ones of run->uses
  int32_t leaf = -1;                // KV node; -1: not in memory, or not begun
  int32_t slot = -1;                // on the device, from the first draw to the end
  int32_t drawn = 0;                // tokens drawn by issued steps: tokens.size() of them are known
  std::vector<TokenResult> scores;  // of a scored branch, those that are known
  bool read_done = false;           // kRead: all rows have been issued
  bool path_issued = false;         // every node above the leaf is completely issued
  int32_t source = -1;              // branch or run whose leaf this one continues; -1: opened by its tokens
  bool claims_source = false;       // counted in the source's `continuations`
  int32_t continuations = 0;        // branches that have yet to continue this one's leaf
  bool listed = false;              // in the request's work list
  bool cached_counted = false;      // runs: its cached tokens are in the usage
  uint64_t last_step = 0;           // the last step that holds a row of it

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  int32_t end_position() const { return start_position + size(); }
};

}  // namespace espalier
