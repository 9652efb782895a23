#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/plan/tree_batch.h"

namespace espalier::test {

using Random = std::mt19937;

// Uniform in [low, high].
int32_t Pick(Random& random, int32_t low, int32_t high);

// A batch together with the tree it was made from, as plain parent links: the intervals of the batch can be
// proved against them.
struct Forest {
  TreeBatch batch;
  std::vector<int32_t> row_parent;  // [rows] the row above in the same node; -1: the node's cached part
  std::vector<int32_t> node_tip;    // [nodes] the row that the node's children hang from; -1: the cached part

  // Rows whose own tokens `row` sees, itself first, by walking the links.
  std::vector<int32_t> RowsSeenBy(int32_t row) const;
  // Nodes whose cached tokens `row` sees.
  std::vector<int32_t> NodesSeenBy(int32_t row) const;
};

// Makes a forest in depth-first order:
//   builder.Open(64); builder.Open(5); builder.Chain(1); builder.Close(); ...; builder.Close();
//   builder.Finish();
class ForestBuilder {
 public:
  explicit ForestBuilder(int32_t block_tokens = 16) { forest_.batch.block_tokens = block_tokens; }

  // A node below the open one (or a new root), with tokens computed earlier.
  void Open(int32_t cached_tokens);
  // Rows of the open node, before it gets children: a path of `rows` rows (a prefill chunk, a decode row).
  void Chain(int32_t rows);
  // The same, a tree: parents[i] < i, in pre-order; -1 hangs from the cached part.
  void Tree(const std::vector<int32_t>& parents);
  void Close();
  // Position at which a child of the open node begins.
  int32_t path_end() const;
  int32_t rows() const { return forest_.batch.rows(); }

  // Every node must be closed. Block ids are a random choice from [0, pool_blocks); pool_blocks == 0: twice
  // as many as are used.
  Forest Finish(Random& random, int32_t pool_blocks = 0);

 private:
  Forest forest_;
  std::vector<int32_t> open_;
};

// Parents of a random tree of `rows` rows in pre-order.
std::vector<int32_t> RandomTree(Random& random, int32_t rows);

struct ForestLimits {
  int32_t max_trees = 4;
  int32_t max_depth = 4;
  int32_t max_children = 4;
  int32_t max_node_blocks = 8;  // cached, of one node
  int32_t max_chunk = 40;       // rows of a prefill chunk or token tree
};

// Prefill chunks, decode rows and token trees of several trees in one batch.
Forest MixedForest(Random& random, const ForestLimits& limits, int32_t block_tokens = 16);
// `branches` decode rows under one prompt, each with `own_tokens` tokens of its own.
Forest FewShotForest(Random& random, int32_t prompt_tokens, int32_t branches, int32_t own_tokens,
                     int32_t block_tokens = 16);
// Decode rows that share nothing.
Forest FlatForest(Random& random, int32_t rows, int32_t max_tokens);
// A path of nodes with a decode row hanging from each.
Forest DeepForest(Random& random, int32_t depth, int32_t node_tokens);
// Other block ids: a random choice from [0, pool_blocks), of which there are at least as many as are used.
void ScatterBlocks(Random& random, int32_t pool_blocks, TreeBatch* batch);
// One prefill chunk.
Forest PrefillForest(Random& random, int32_t cached_tokens, int32_t rows);
// A token tree to be verified below a path.
Forest TokenTreeForest(Random& random, int32_t cached_tokens, int32_t rows);

}  // namespace espalier::test
