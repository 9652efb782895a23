#pragma once

#include <cstdint>
#include <vector>

#include "engine/tree_request.h"
#include "tests/bench/recorded_trees.h"
#include "tests/bench/tree_shape.h"

namespace espalier::bench {

// A level string's or few-shot tree as if it had been recorded: the first level is the prompt, every further
// level is generated side by side, step by step. One root only.
RecordedTree AsRecorded(const TreeShape& shape);

// The steps [first_step, first_step + steps) of a recorded run as a request: what was computed before them is
// given, what grows in them is generated, whatever the tokens are. `vocab` and `seed` choose random token
// ids.
struct ReplayWindow {
  TreeRequest request;
  TreeRequest given;             // the given nodes of `request` alone
  int64_t given_tokens = 0;      // of all nodes, each once
  int64_t generated_tokens = 0;  // that the request has to end with
  int32_t longest_path_tokens = 0;
  int32_t branches = 0;  // the most that grow side by side
};
ReplayWindow MakeWindow(const RecordedTree& tree, int32_t first_step, int32_t steps, int32_t vocab,
                        uint64_t seed);

}  // namespace espalier::bench
