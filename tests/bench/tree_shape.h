#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/result.h"
#include "kernels/plan/tree_batch.h"

namespace espalier::bench {

// A piece of text in a tree, and the query rows of this step at its end.
struct ShapeNode {
  int32_t parent = -1;  // index of an earlier node; -1: the root of a tree
  int32_t tokens = 0;   // computed before this step
  // Rows of this step, leaves only: row i continues row `row_parents[i]` < i of the same node, or (-1) the
  // node's tokens. One row that decodes: {-1}. A prefill chunk: {-1, 0, 1, ...}. A token tree: in pre-order.
  std::vector<int32_t> row_parents;
};

// The trees of one step of decoding. Parents stand before their children.
struct TreeShape {
  std::string name;
  std::vector<ShapeNode> nodes;

  int32_t rows() const;
  // Tokens of all nodes and rows, each once.
  int64_t tokens() const;
};

// "1,50;4000,200": nodes of each level; tokens of each node of that level. Children are spread evenly over
// the level above, and every leaf has one row, which is its last token. Errors name the position in the text.
Result<TreeShape> ParseLevels(std::string_view text);

// A prompt with `branches` below it, each with `branch_tokens` tokens: "few-shot".
TreeShape FewShotShape(int32_t prompt_tokens, int32_t branches, int32_t branch_tokens);

// A chunk of `rows` rows of a prompt behind `cached_tokens` tokens.
TreeShape PrefillShape(int32_t cached_tokens, int32_t rows);

// A token tree of speculative decoding below a path of `path_tokens` tokens. `parents` in pre-order, as
// row_parents.
TreeShape TokenTreeShape(std::string name, int32_t path_tokens, std::vector<int32_t> parents);

// Parents, in pre-order, of a token tree with `rows` rows: the path's last token, four candidates below it,
// two below each of those, level by level until there are so many (the topologies of 32 and 64 rows that the
// DeFT paper uses).
std::vector<int32_t> BinaryTokenTree(int32_t rows);

// The step as the engine would hand it over: inner nodes hold whole blocks only, what is left over is copied
// into the children's first block. Block ids are 0, 1, 2, ... in the order of the nodes.
TreeBatch MakeBatch(const TreeShape& shape, int32_t block_tokens);

}  // namespace espalier::bench
