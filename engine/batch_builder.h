#pragma once

#include <cstdint>
#include <vector>

#include "engine/kv_tree.h"
#include "kernels/plan/tree_batch.h"
#include "kernels/step_input.h"

namespace espalier {

// Lays the rows that a step issues out in pre-order: of the nodes with rows, and of all nodes above them.
class BatchBuilder {
 public:
  // `shuffle_seed` not 0: trees and siblings come in an order that depends on it and the step (tests: results
  // must not). The tree outlives this.
  BatchBuilder(const KvTree* tree, uint64_t shuffle_seed) : tree_(tree), shuffle_seed_(shuffle_seed) {}

  // From tree.touched(). Tokens that the host does not know are left at {-1, -1}.
  void Build(TreeBatch* batch, std::vector<RowToken>* tokens);

  // The row of the token at `position` of the path to `node`; of the batch built last.
  // Precondition: issued with it.
  int32_t RowOf(const TreeBatch& batch, int32_t node, int32_t position) const;

 private:
  void CollectMembers();
  void Shuffle();
  void AddNode(int32_t id, int32_t parent, TreeBatch* batch, std::vector<RowToken>* tokens);

  int32_t& IndexOf(int32_t node) { return index_[static_cast<size_t>(node)]; }

  const KvTree* tree_;
  uint64_t shuffle_seed_;
  uint64_t builds_ = 0;
  std::vector<int32_t> members_;  // node ids with rows at or below them
  // [node slots] -1: not a member; else the index in members_ at first, in the batch's nodes once it has one.
  std::vector<int32_t> index_;
  std::vector<int32_t> first_child_;   // [members] index of a member, -1: none
  std::vector<int32_t> next_sibling_;  // [members]
  std::vector<int32_t> stack_;
};

}  // namespace espalier
