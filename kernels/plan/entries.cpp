#include <algorithm>

#include "kernels/plan/plan_builder.h"

namespace espalier::plan {

EntryLister::EntryLister(const TreeBatch& batch, bool keep_unseen)
    : batch_(batch), keep_unseen_(keep_unseen) {
  rows_are_path_.reserve(batch.nodes.size());
  for (const BatchNode& node : batch.nodes) {
    const auto first = batch.row_subtree_end.begin() + node.first_row;
    rows_are_path_.push_back(
        std::all_of(first, first + node.rows, [&](int32_t end) { return end == node.subtree_end_row; }));
  }
}

// The end of the run of tokens that begins with `token`, at the next border of a block or segment.
int32_t EntryLister::PieceEnd(const BatchNode& node, int32_t token, int32_t position) const {
  const int32_t in_block = batch_.block_tokens - token % batch_.block_tokens;
  const int32_t in_segment = kSegmentTokens - position % kSegmentTokens;
  return std::min(node.cached_tokens + node.rows, token + std::min(in_block, in_segment));
}

void EntryLister::ListNode(int32_t node, RowRange rows, int32_t token_begin, int32_t token_end,
                           std::vector<PlanEntry>* entries) const {
  const BatchNode& n = batch_.nodes[static_cast<size_t>(node)];
  if (token_begin < n.cached_tokens) {
    ListCached(n, rows, token_begin, std::min(token_end, n.cached_tokens), entries);
  }
  const int32_t own_begin = std::max(token_begin, n.cached_tokens);
  const int32_t own_end = std::min(token_end, n.cached_tokens + n.rows);
  if (own_begin < own_end) ListOwn(node, rows, own_begin, own_end, entries);
}

void EntryLister::ListCached(const BatchNode& node, RowRange rows, int32_t begin, int32_t end,
                             std::vector<PlanEntry>* entries) const {
  PlanEntry entry;
  entry.row_begin = std::max(node.first_row, rows.begin);
  entry.row_end = std::min(node.subtree_end_row, rows.end);
  if (entry.row_begin >= entry.row_end) {
    if (!keep_unseen_) return;
    entry.row_begin = entry.row_end = rows.begin;
  }
  // Nodes with cached tokens begin at the start of a block, so no block reaches into another segment.
  const int32_t block_tokens = batch_.block_tokens;
  const int32_t* block = batch_.blocks.data() + node.first_block + begin / block_tokens;
  int32_t slot = begin % block_tokens;
  for (int32_t token = begin; token < end;) {
    const int32_t tokens = std::min(end - token, block_tokens - slot);
    entry.block = *block++;
    entry.first_slot = static_cast<int16_t>(slot);
    entry.tokens = static_cast<int16_t>(tokens);
    entry.position = node.begin_position + token;
    entries->push_back(entry);
    token += tokens;
    slot = 0;
  }
}

void EntryLister::ListOwn(int32_t node, RowRange rows, int32_t begin, int32_t end,
                          std::vector<PlanEntry>* entries) const {
  const BatchNode& n = batch_.nodes[static_cast<size_t>(node)];
  const bool path = rows_are_path_[static_cast<size_t>(node)] != 0;
  const auto row_of = [&](int32_t token) { return n.first_row + token - n.cached_tokens; };
  const auto position_of = [&](int32_t token) {
    return batch_.row_position[static_cast<size_t>(row_of(token))];
  };
  const auto end_of = [&](int32_t token) {
    return batch_.row_subtree_end[static_cast<size_t>(row_of(token))];
  };
  const auto seen = [&](int32_t token) { return row_of(token) < rows.end && end_of(token) > rows.begin; };

  for (int32_t token = begin; token < end;) {
    const bool visible = seen(token);
    if (!visible && !keep_unseen_) {
      if (row_of(token) >= rows.end) return;
      ++token;
      continue;
    }
    int32_t limit = std::min(end, PieceEnd(n, token, position_of(token)));
    int32_t row_end = end_of(token);
    int32_t piece_end = token + 1;
    if (path) {
      // One test for all: rows are seen by everything after them in the subtree.
      if (visible) limit = std::min(limit, n.cached_tokens + rows.end - n.first_row);
      piece_end = limit;
    } else {
      const int32_t segment = position_of(token) / kSegmentTokens;
      while (piece_end < limit && seen(piece_end) == visible &&
             position_of(piece_end) / kSegmentTokens == segment) {
        row_end = std::max(row_end, end_of(piece_end));
        ++piece_end;
      }
    }
    PlanEntry entry;
    entry.block = batch_.blocks[static_cast<size_t>(n.first_block + token / batch_.block_tokens)];
    entry.first_slot = static_cast<int16_t>(token % batch_.block_tokens);
    entry.tokens = static_cast<int16_t>(piece_end - token);
    entry.position = position_of(token);
    entry.row_begin = visible ? std::max(row_of(token), rows.begin) : rows.begin;
    entry.row_end = visible ? std::min(row_end, rows.end) : rows.begin;
    entry.first_own_row = row_of(token);
    entries->push_back(entry);
    token = piece_end;
  }
}

void EntryLister::ListRows(RowRange rows, std::vector<PlanEntry>* entries) {
  const size_t first = entries->size();
  const int32_t first_node = batch_.row_node[static_cast<size_t>(rows.begin)];
  path_.clear();
  for (int32_t node = first_node; node >= 0; node = batch_.nodes[static_cast<size_t>(node)].parent) {
    path_.push_back(node);
  }
  for (auto node = path_.rbegin(); node != path_.rend(); ++node)
    ListNode(*node, rows, 0, kAllTokens, entries);
  for (size_t node = static_cast<size_t>(first_node) + 1;
       node < batch_.nodes.size() && batch_.nodes[node].first_row < rows.end; ++node) {
    ListNode(static_cast<int32_t>(node), rows, 0, kAllTokens, entries);
  }
  GroupBySegment(first, entries);
}

size_t EntryLister::GuessEntries(const std::vector<RowRange>& tiles) const {
  const auto node_of = [&](size_t index) -> const BatchNode& { return batch_.nodes[index]; };
  const auto entries_of = [&](const BatchNode& node) {
    return static_cast<size_t>((node.cached_tokens + node.rows) / batch_.block_tokens) + 1;
  };
  size_t entries = 0;
  for (const RowRange rows : tiles) {
    const auto first = static_cast<size_t>(batch_.row_node[static_cast<size_t>(rows.begin)]);
    for (int32_t node = node_of(first).parent; node >= 0; node = node_of(static_cast<size_t>(node)).parent)
      entries += entries_of(node_of(static_cast<size_t>(node)));
    for (size_t node = first; node < batch_.nodes.size() && node_of(node).first_row < rows.end; ++node)
      entries += entries_of(node_of(node));
  }
  return entries;
}

void EntryLister::ListTree(int32_t node_begin, int32_t node_end, RowRange rows,
                           std::vector<PlanEntry>* entries) {
  const size_t first = entries->size();
  for (int32_t node = node_begin; node < node_end; ++node) ListNode(node, rows, 0, kAllTokens, entries);
  GroupBySegment(first, entries);
}

void EntryLister::GroupBySegment(size_t first, std::vector<PlanEntry>* entries) {
  const auto by_segment = [](const PlanEntry& a, const PlanEntry& b) { return SegmentOf(a) < SegmentOf(b); };
  const auto listed = entries->begin() + static_cast<std::ptrdiff_t>(first);
  const auto sorted_end = std::is_sorted_until(listed, entries->end(), by_segment);
  if (sorted_end == entries->end()) return;
  // What all rows share comes first and stays where it is.
  const PlanEntry& least = *std::min_element(sorted_end, entries->end(), by_segment);
  const int32_t first_segment = SegmentOf(least);
  const auto begin = std::upper_bound(listed, sorted_end, least, by_segment);
  segment_begin_.clear();
  for (auto entry = begin; entry != entries->end(); ++entry) {
    const auto next = static_cast<size_t>(SegmentOf(*entry) - first_segment) + 1;
    if (segment_begin_.size() <= next) segment_begin_.resize(next + 1, 0);
    ++segment_begin_[next];
  }
  for (size_t i = 1; i < segment_begin_.size(); ++i) segment_begin_[i] += segment_begin_[i - 1];
  grouped_.assign(begin, entries->end());
  for (const PlanEntry& entry : grouped_) {
    begin[segment_begin_[static_cast<size_t>(SegmentOf(entry) - first_segment)]++] = entry;
  }
}

}  // namespace espalier::plan
