#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/result.h"

namespace espalier {

// A run of tokens on one path: where its KV lies, and which query rows of this step belong to it.
//
// Token i of the node lies in KV slot `i % block_tokens` of block `blocks[first_block + i / block_tokens]`.
// Tokens [0, cached_tokens) were written before this step; token `cached_tokens + j` is written in this step
// by row `first_row + j`, before any row reads it.
//
// Every cached token of a node is visible to every row at or below the node. (A node whose partly filled last
// block is not part of its children's paths is handed over as two nodes: the shared part, and the rest as a
// sibling of the children.)
struct BatchNode {
  int32_t parent = -1;         // index of an earlier node of the batch; -1 for the root of a tree
  int32_t begin_position = 0;  // absolute position of token 0; a multiple of block_tokens but for token trees
  int32_t cached_tokens = 0;   // tokens whose KV lies in the blocks before this step
  int32_t first_block = 0;     // into TreeBatch::blocks; ceil((cached_tokens + rows) / block_tokens) ids
  int32_t first_row = 0;       // rows at this node: [first_row, first_row + rows)
  int32_t rows = 0;            //
  int32_t subtree_end_row = 0;  // rows at or below this node: [first_row, subtree_end_row)
};

// The query rows of one step and the KV that they may read: a forest in pre-order.
//
// Rows are numbered in the depth-first order of the nodes, a node's own rows before those of its children.
// Hence the rows that may see a KV token are one interval: a cached token of node n is seen by [n.first_row,
// n.subtree_end_row); the token written by row r is seen by [r, row_subtree_end[r]). The second interval is
// the causal mask of chunked prefill (row_subtree_end[r] == its node's subtree_end_row) and, where a node's
// rows branch among themselves, the mask of a token tree in speculative verification (docs: ARCHITECTURE.md,
// "Rows and visibility"). Nothing outside the step is keyed by row: rows may be renumbered freely from step
// to step.
struct TreeBatch {
  int32_t block_tokens = 16;             // KV slots of a block; divides kSegmentTokens
  std::vector<BatchNode> nodes;          // pre-order; only nodes with rows at or below them
  std::vector<int32_t> blocks;           // KV block ids, node by node
  std::vector<int32_t> row_node;         // [rows] index of the row's node
  std::vector<int32_t> row_position;     // [rows] absolute position of the row's token
  std::vector<int32_t> row_subtree_end;  // [rows] the row's token is seen by rows [r, row_subtree_end[r])

  int32_t rows() const { return static_cast<int32_t>(row_node.size()); }

  // The place of row r's own KV in the pool: block id * block_tokens + slot.
  int64_t KvSlotOfRow(int32_t row) const {
    const BatchNode& node = nodes[static_cast<size_t>(row_node[static_cast<size_t>(row)])];
    const int32_t token = node.cached_tokens + (row - node.first_row);
    const int64_t block = blocks[static_cast<size_t>(node.first_block + token / block_tokens)];
    return block * block_tokens + token % block_tokens;
  }
};

// Checks every statement made above (pre-order, nested intervals, positions along each path, one writer per
// slot). For tests and debug builds: linear in rows, nodes and blocks.
Status ValidateBatch(const TreeBatch& batch);

}  // namespace espalier
