#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/result.h"
#include "tests/bench/tree_shape.h"

namespace espalier::bench {

// A node of a recorded run of multi-step reasoning: it grows by one token in each of the steps [start, end].
struct RecordedNode {
  int32_t parent = -1;  // index of an earlier node; -1: the prompt
  int32_t tokens = 0;
  int32_t start = 0;  // steps count from 1; the prompt was there before
  int32_t end = 0;
};

// The whole run: node 0 is the prompt. A node without children is pruned when it ends.
struct RecordedTree {
  std::vector<RecordedNode> nodes;

  int32_t steps() const;
  // What the step computes: every node that grows in it, below its path. No node may grow: an empty shape.
  TreeShape At(int32_t step) const;
};

struct RecordedTrees {
  std::string name;  // of the file, without folder and ending
  std::vector<RecordedTree> trees;
  int32_t skipped = 0;  // marked as incomplete
  // What was wrong with trees that were damaged, "tree 7, node 12: why"; those are left out as well.
  std::vector<std::string> damaged;
};

// Reads a list of {"incompleted", "data": {id: {"id", "value", "start", "end", "children"}}} as the DeFT
// paper's artifact records reasoning runs. A tree that contradicts itself is left out and reported; an error,
// naming the flag trees and the file, only where the file as a whole cannot be used.
Result<RecordedTrees> ReadRecordedTrees(const std::string& path);

// A topology of speculative decoding, {"Tree_Structure": [[0], [1], [0, 0], ...]}: paths of candidates below
// the last token of a path. Returns parents in pre-order as TokenTreeShape wants them, that last token first.
// Errors name the flag token_tree, the file and the path at fault.
Result<std::vector<int32_t>> ReadTokenTree(const std::string& path);

}  // namespace espalier::bench
