#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/tree_request.h"

namespace espalier {

// What is computed for given nodes. Given nodes that hang together (each but the first below another given
// node, without a selection between) are a *group*: their tokens are known as soon as the branch above them
// has ended. A group's tokens form a trie; its edges are *runs*. A run is computed once, whatever number of
// nodes begins with its tokens, and each row of it serves all that need its logits: scores of several
// continuations, first samples below several nodes.
//
// Depths count tokens from the end of the branch that the group continues: -1 is that branch's last token.
// Where the group has the root, 0 is the root's first token.

// What the row of one token of a run is needed for, besides the tokens after it.
struct RunUse {
  enum class Kind : uint8_t {
    kScore,   // the log-probability of token `token` of the member
    kSample,  // first tokens of branches that are generated below the member
    kRead,    // the member is an unscored terminal branch: its last row is all that was asked for
  };
  int32_t depth = 0;
  Kind kind = Kind::kScore;
  int32_t member = -1;  // index into RunPlan::members; -1 (kSample): the branch that the group continues
  int32_t token = 0;
};

// Tokens [begin, end) of depth that a member has in a run.
struct RunSpan {
  int32_t member = 0;
  int32_t begin = 0;
  int32_t end = 0;
};

struct Run {
  int32_t parent = -1;          // an earlier run; -1: the first one, which continues the branch itself
  int32_t begin = 0;            // depth
  std::vector<int32_t> tokens;  // their rows are needed, all of them
  std::vector<RunUse> uses;     // by depth
  std::vector<RunSpan> spans;
  int32_t member = -1;  // the first that asked for it; -1: only the branch that the group continues
};

// All runs of a group. The tokens of the path that must be run again or were never run come before those of
// the first run; only the instance knows them.
struct RunPlan {
  std::vector<int32_t> members;  // indices of given nodes, parents first
  std::vector<int32_t> run_of;   // [members] the run that ends where the member can be continued; -1: none
  std::vector<Run> runs;         // parents first; empty: nothing has to be run
};

// Groups are named by what they continue: the root's by 0, others by the generated node or the selection
// above.
struct RunPlans {
  std::vector<std::unique_ptr<const RunPlan>> of_owner;  // [nodes] null: no given node follows
  std::vector<int32_t> member;                           // [nodes] a given node's index in its plan
};

// Takes time that grows with the request's tokens. Precondition: the topology is valid.
RunPlans PlanRuns(const TreeRequest& request);

// Of a group without given nodes: the last row of the branch, for samples below it.
const RunPlan& SampleOnlyPlan();

}  // namespace espalier
