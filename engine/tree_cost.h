#pragma once

#include <cstdint>
#include <vector>

#include "engine/tree_request.h"

namespace espalier {

// What a request may take, from its templates alone: generated nodes count with max_new_tokens, selections
// with what they keep at most. Counts saturate at kCostLimit.
inline constexpr int64_t kCostLimit = int64_t{1} << 40;

struct TreeNodeCost {
  int64_t branches = 0;     // at the node; of a select: branches that it keeps
  int64_t path_tokens = 0;  // from the root to the end of the node
  // What the answer takes at most for the branches of the node, encoded: their deltas, one for each token
  // that is generated, and what repeats them at the end. Text counts with kTextBytesPerToken.
  int64_t answer_bytes = 0;
};

// More than tokens of natural text have on average; single tokens of a vocabulary have up to about 128.
inline constexpr int64_t kTextBytesPerToken = 8;

struct TreeCost {
  std::vector<TreeNodeCost> nodes;  // as TreeRequest::nodes
  // What the answer lists at most: a path of node ids for each branch, and each selection's candidates.
  int64_t answer_entries = 0;
  int64_t answer_bytes = 0;  // of all nodes
  int64_t leaves = 0;        // leaves alive at one time if everything runs side by side
  // KV blocks without which the request cannot run: those of its longest path. Branches can always run one
  // after another; one that waits at a barrier needs no memory, what is kept is computed again.
  int64_t min_blocks = 0;
};

// Precondition: the topology is valid (parents before children, the root given, no counts below 1).
TreeCost CostOf(const TreeRequest& request, const EngineLimits& limits);

// Branches that are generated first: those below given nodes only. At least 1, for the prompt's own rows.
// Same precondition.
int32_t FirstBranches(const TreeRequest& request);

}  // namespace espalier
