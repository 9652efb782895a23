#include "kernels/plan/tree_batch.h"

#include <algorithm>
#include <string>

#include "kernels/plan/attention_plan.h"

namespace espalier {

namespace {

// Walks the nodes once in pre-order with the stack of open nodes, and the rows of each node with the stack of
// open rows.
class BatchChecker {
 public:
  explicit BatchChecker(const TreeBatch& batch) : batch_(batch) {}

  Status Run() {
    if (batch_.block_tokens <= 0 || kSegmentTokens % batch_.block_tokens != 0) {
      return Fail("block_tokens", "does not divide the segment");
    }
    const size_t rows = batch_.row_node.size();
    if (batch_.row_position.size() != rows || batch_.row_subtree_end.size() != rows) {
      return Fail("row_node", "row arrays differ in length");
    }
    path_end_.resize(batch_.nodes.size());
    for (int32_t i = 0; i < static_cast<int32_t>(batch_.nodes.size()); ++i) {
      if (Status status = CheckNode(i); !status) return status;
      if (Status status = CheckRows(i); !status) return status;
    }
    if (Status status = CloseNodesUpTo(-1); !status) return status;
    if (next_row_ != batch_.rows()) return Fail("row_node", "rows without a node");
    if (next_block_ != static_cast<int64_t>(batch_.blocks.size()))
      return Fail("blocks", "blocks without a node");
    return CheckWriters();
  }

 private:
  static Status Fail(std::string field, std::string message) {
    return InvalidArgument("batch." + std::move(field), std::move(message));
  }
  static Status FailAt(const char* array, int32_t index, std::string message) {
    return Fail(std::string(array) + "[" + std::to_string(index) + "]", std::move(message));
  }
  const BatchNode& node(int32_t index) const { return batch_.nodes[static_cast<size_t>(index)]; }
  int32_t row_end(int32_t row) const { return batch_.row_subtree_end[static_cast<size_t>(row)]; }

  // Pops open nodes until `ancestor` (-1: none) is on top. Each must end at the row reached.
  Status CloseNodesUpTo(int32_t ancestor) {
    while (!open_nodes_.empty() && open_nodes_.back() != ancestor) {
      const int32_t closed = open_nodes_.back();
      if (node(closed).subtree_end_row != next_row_)
        return FailAt("nodes", closed, "subtree_end_row is wrong");
      if (node(closed).first_row == next_row_) return FailAt("nodes", closed, "has no row at or below it");
      open_nodes_.pop_back();
    }
    if (ancestor >= 0 && open_nodes_.empty()) {
      return FailAt("nodes", ancestor, "has a child after its subtree ended: not pre-order");
    }
    return {};
  }

  Status CheckNode(int32_t i) {
    const BatchNode& n = node(i);
    if (n.parent < -1 || n.parent >= i) return FailAt("nodes", i, "parent is not an earlier node");
    if (Status status = CloseNodesUpTo(n.parent); !status) return status;
    if (n.cached_tokens < 0 || n.rows < 0) return FailAt("nodes", i, "negative length");
    if (n.first_row != next_row_) return FailAt("nodes", i, "first_row is not the next row in pre-order");
    if (n.rows > batch_.rows() - next_row_) return FailAt("nodes", i, "rows beyond the batch");
    if (n.subtree_end_row < n.first_row + n.rows)
      return FailAt("nodes", i, "subtree_end_row before its own rows");
    const int32_t begin = n.parent < 0 ? 0 : path_end_[static_cast<size_t>(n.parent)];
    if (n.begin_position != begin) return FailAt("nodes", i, "begin_position does not follow the path above");
    if (n.cached_tokens > 0 && n.begin_position % batch_.block_tokens != 0) {
      return FailAt("nodes", i, "cached tokens begin inside a block");
    }
    if (n.first_block != next_block_) return FailAt("nodes", i, "first_block is not the next block");
    next_block_ += (int64_t{n.cached_tokens} + n.rows + batch_.block_tokens - 1) / batch_.block_tokens;
    if (next_block_ > static_cast<int64_t>(batch_.blocks.size()))
      return FailAt("nodes", i, "blocks are missing");
    open_nodes_.push_back(i);
    return {};
  }

  // Rows of a node are a forest in pre-order themselves. A row that the node's children see has every row
  // below the node in its subtree.
  Status CheckRows(int32_t i) {
    const BatchNode& n = node(i);
    const int32_t own_end = n.first_row + n.rows;
    std::vector<int32_t>& open_rows = open_rows_;
    open_rows.clear();
    for (int32_t row = n.first_row; row < own_end; ++row) {
      if (batch_.row_node[static_cast<size_t>(row)] != i) return FailAt("row_node", row, "is another node");
      while (!open_rows.empty() && row_end(open_rows.back()) <= row) open_rows.pop_back();
      const int32_t limit = open_rows.empty() ? n.subtree_end_row : row_end(open_rows.back());
      const int32_t end = row_end(row);
      if (end <= row || end > limit || (end > own_end && end != n.subtree_end_row)) {
        return FailAt("row_subtree_end", row, "is not nested");
      }
      const int32_t position = n.begin_position + n.cached_tokens + static_cast<int32_t>(open_rows.size());
      if (batch_.row_position[static_cast<size_t>(row)] != position) {
        return FailAt("row_position", row, "does not follow the path above");
      }
      open_rows.push_back(row);
    }
    const auto seen_below = std::count_if(open_rows.begin(), open_rows.end(),
                                          [&](int32_t row) { return row_end(row) == n.subtree_end_row; });
    path_end_[static_cast<size_t>(i)] = n.begin_position + n.cached_tokens + static_cast<int32_t>(seen_below);
    next_row_ = own_end;
    return {};
  }

  // One writer for each KV slot, and no KV slot that is written holds a cached token of any node.
  Status CheckWriters() {
    const auto negative =
        std::find_if(batch_.blocks.begin(), batch_.blocks.end(), [](int32_t b) { return b < 0; });
    if (negative != batch_.blocks.end()) return Fail("blocks", "negative block id");
    std::vector<int64_t> written(batch_.row_node.size());
    for (int32_t row = 0; row < batch_.rows(); ++row)
      written[static_cast<size_t>(row)] = batch_.KvSlotOfRow(row);
    std::sort(written.begin(), written.end());
    if (std::adjacent_find(written.begin(), written.end()) != written.end()) {
      return Fail("blocks", "two rows write the same KV slot");
    }
    for (int32_t i = 0; i < static_cast<int32_t>(batch_.nodes.size()); ++i) {
      for (int32_t token = 0; token < node(i).cached_tokens; token += batch_.block_tokens) {
        const int32_t index = node(i).first_block + token / batch_.block_tokens;
        const int64_t first = int64_t{batch_.blocks[static_cast<size_t>(index)]} * batch_.block_tokens;
        const int64_t end = first + std::min(batch_.block_tokens, node(i).cached_tokens - token);
        const auto writer = std::lower_bound(written.begin(), written.end(), first);
        if (writer != written.end() && *writer < end)
          return FailAt("nodes", i, "a cached token is overwritten");
      }
    }
    return {};
  }

  const TreeBatch& batch_;
  std::vector<int32_t> open_nodes_;
  std::vector<int32_t> open_rows_;
  std::vector<int32_t> path_end_;  // [nodes] the position at which children begin
  int32_t next_row_ = 0;
  int64_t next_block_ = 0;
};

}  // namespace

Status ValidateBatch(const TreeBatch& batch) { return BatchChecker(batch).Run(); }

}  // namespace espalier
