#include "engine/batch_builder.h"

#include <algorithm>
#include <random>

#include "kernels/base/result.h"

namespace espalier {

namespace {

int32_t RowsOf(const KvNode& node, bool touched) {
  return touched ? node.issued_tokens - node.issued_before_step : 0;
}

}  // namespace

void BatchBuilder::CollectMembers() {
  for (const int32_t id : members_) IndexOf(id) = -1;
  members_.clear();
  index_.resize(static_cast<size_t>(tree_->node_capacity()), -1);
  for (const int32_t touched : tree_->touched()) {
    if (RowsOf(tree_->node(touched), true) == 0) continue;
    for (int32_t id = touched; id >= 0; id = tree_->node(id).parent) {
      if (IndexOf(id) >= 0) break;
      IndexOf(id) = static_cast<int32_t>(members_.size());
      members_.push_back(id);
    }
  }
}

void BatchBuilder::Shuffle() {
  std::mt19937_64 random(shuffle_seed_ + builds_);
  std::shuffle(members_.begin(), members_.end(), random);
  for (size_t i = 0; i < members_.size(); ++i) IndexOf(members_[i]) = static_cast<int32_t>(i);
}

void BatchBuilder::Build(TreeBatch* batch, std::vector<RowToken>* tokens) {
  ++builds_;
  CollectMembers();
  if (shuffle_seed_ != 0) Shuffle();
  batch->block_tokens = tree_->block_tokens();
  batch->nodes.reserve(members_.size());

  // Siblings and roots in the order of members_.
  first_child_.assign(members_.size(), -1);
  next_sibling_.assign(members_.size(), -1);
  int32_t first_root = -1;
  for (int32_t i = static_cast<int32_t>(members_.size()) - 1; i >= 0; --i) {
    const int32_t parent = tree_->node(members_[static_cast<size_t>(i)]).parent;
    int32_t* head = parent >= 0 ? &first_child_[static_cast<size_t>(IndexOf(parent))] : &first_root;
    next_sibling_[static_cast<size_t>(i)] = *head;
    *head = i;
  }

  // Depth first. The stack holds members to enter; ~n closes the batch node n.
  stack_.clear();
  for (int32_t root = first_root; root >= 0; root = next_sibling_[static_cast<size_t>(root)]) {
    stack_.push_back(root);
    int32_t open = -1;  // batch index of the node whose children are being entered
    while (!stack_.empty()) {
      const int32_t top = stack_.back();
      stack_.pop_back();
      if (top < 0) {
        BatchNode& closing = batch->nodes[static_cast<size_t>(~top)];
        closing.subtree_end_row = batch->rows();
        open = closing.parent;
        continue;
      }
      const int32_t index = static_cast<int32_t>(batch->nodes.size());
      AddNode(members_[static_cast<size_t>(top)], open, batch, tokens);
      open = index;
      stack_.push_back(~index);
      for (int32_t child = first_child_[static_cast<size_t>(top)]; child >= 0;
           child = next_sibling_[static_cast<size_t>(child)])
        stack_.push_back(child);
    }
  }
  batch->row_subtree_end.reserve(static_cast<size_t>(batch->rows()));
  for (const int32_t node : batch->row_node)
    batch->row_subtree_end.push_back(batch->nodes[static_cast<size_t>(node)].subtree_end_row);
}

void BatchBuilder::AddNode(int32_t id, int32_t parent, TreeBatch* batch, std::vector<RowToken>* tokens) {
  const KvNode& node = tree_->node(id);
  const int32_t index = static_cast<int32_t>(batch->nodes.size());
  const int32_t rows = RowsOf(node, node.touched_step == tree_->current_step());
  const int32_t cached = node.issued_tokens - rows;
  const int32_t block_tokens = tree_->block_tokens();
  const int32_t blocks = (cached + rows + block_tokens - 1) / block_tokens;
  IndexOf(id) = index;
  batch->nodes.push_back({.parent = parent,
                          .begin_position = node.begin_position,
                          .cached_tokens = cached,
                          .first_block = static_cast<int32_t>(batch->blocks.size()),
                          .first_row = batch->rows(),
                          .rows = rows,
                          .subtree_end_row = 0});
  batch->blocks.insert(batch->blocks.end(), node.blocks.begin(), node.blocks.begin() + blocks);
  for (int32_t i = 0; i < rows; ++i) {
    batch->row_node.push_back(index);
    batch->row_position.push_back(node.begin_position + cached + i);
    const int32_t token = node.tokens[static_cast<size_t>(cached + i)];
    tokens->push_back({.token_id = token == kUnknownToken ? -1 : token, .sequence_slot = -1});
  }
}

int32_t BatchBuilder::RowOf(const TreeBatch& batch, int32_t node, int32_t position) const {
  while (position < tree_->node(node).begin_position) node = tree_->node(node).parent;
  const BatchNode& in = batch.nodes[static_cast<size_t>(index_[static_cast<size_t>(node)])];
  const int32_t row = in.first_row + position - in.begin_position - in.cached_tokens;
  ESPALIER_CHECK(row >= in.first_row && row < in.first_row + in.rows);
  return row;
}

}  // namespace espalier
