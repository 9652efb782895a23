#include <algorithm>

#include "kernels/plan/plan_builder.h"

namespace espalier::plan {

namespace {

constexpr int32_t kAllTokens = std::numeric_limits<int32_t>::max();

// Takes tokens of the positions [begin, end), seen by `rows`, into the sums of their segment.
void Count(RowRange rows, int32_t tokens, int32_t begin, int32_t end, PlanSegment* segment) {
  segment->tokens += tokens;
  segment->pairs += int64_t{tokens} * rows.size();
  if (rows.size() == 0) return;
  const int32_t column_begin = begin - segment->index * kSegmentTokens;
  const int32_t column_end = end - segment->index * kSegmentTokens;
  const bool first = segment->row_begin == segment->row_end;
  segment->row_begin = first ? rows.begin : std::min(segment->row_begin, rows.begin);
  segment->row_end = std::max(segment->row_end, rows.end);
  segment->column_begin = first ? column_begin : std::min(segment->column_begin, column_begin);
  segment->column_end = std::max(segment->column_end, column_end);
}

}  // namespace

KvRangeBuilder::KvRangeBuilder(const TreeBatch& batch, bool keep_unseen)
    : batch_(batch), keep_unseen_(keep_unseen) {
  rows_are_path_.reserve(batch.nodes.size());
  for (const BatchNode& node : batch.nodes) {
    const auto first = batch.row_subtree_end.begin() + node.first_row;
    rows_are_path_.push_back(
        std::all_of(first, first + node.rows, [&](int32_t end) { return end == node.subtree_end_row; }));
  }
}

int32_t KvRangeBuilder::OwnPosition(const BatchNode& node, int32_t token) const {
  return batch_.row_position[static_cast<size_t>(node.first_row + token - node.cached_tokens)];
}

void KvRangeBuilder::AppendCached(const BatchNode& node, RowRange rows, int32_t begin, int32_t end,
                                  PlanSegment* segment, std::vector<PlanEntry>* entries) const {
  PlanEntry entry;
  entry.row_begin = std::max(node.first_row, rows.begin);
  entry.row_end = std::min(node.subtree_end_row, rows.end);
  if (entry.row_begin >= entry.row_end) {
    if (!keep_unseen_) return;
    entry.row_begin = entry.row_end = rows.begin;
  }
  Count({entry.row_begin, entry.row_end}, end - begin, node.begin_position + begin, node.begin_position + end,
        segment);
  // Nodes with cached tokens begin at the start of a block, so no block reaches into another segment.
  const int32_t block_tokens = batch_.block_tokens;
  const int32_t* block = batch_.blocks.data() + node.first_block + begin / block_tokens;
  int32_t slot = begin % block_tokens;
  for (int32_t token = begin; token < end;) {
    const int32_t tokens = std::min(end - token, block_tokens - slot);
    entry.block = *block++;
    entry.first_kv_slot = static_cast<int16_t>(slot);
    entry.tokens = static_cast<int16_t>(tokens);
    entry.position = node.begin_position + token;
    entries->push_back(entry);
    token += tokens;
    slot = 0;
  }
}

// Of the tokens [begin, end), those that lie in `segment`.
void KvRangeBuilder::AppendOwn(int32_t node, RowRange rows, int32_t begin, int32_t end, PlanSegment* segment,
                               std::vector<PlanEntry>* entries) const {
  const BatchNode& n = batch_.nodes[static_cast<size_t>(node)];
  const bool path = rows_are_path_[static_cast<size_t>(node)] != 0;
  const auto row_of = [&](int32_t token) { return n.first_row + token - n.cached_tokens; };
  const auto end_of = [&](int32_t token) {
    return batch_.row_subtree_end[static_cast<size_t>(row_of(token))];
  };
  const auto seen = [&](int32_t token) { return row_of(token) < rows.end && end_of(token) > rows.begin; };
  const auto here = [&](int32_t token) { return OwnPosition(n, token) / kSegmentTokens == segment->index; };

  for (int32_t token = begin; token < end;) {
    const bool visible = seen(token);
    if (!visible && !keep_unseen_ && row_of(token) >= rows.end) return;
    if (!here(token) || (!visible && !keep_unseen_)) {
      ++token;
      continue;
    }
    int32_t limit = std::min(end, token + batch_.block_tokens - token % batch_.block_tokens);
    int32_t row_end = end_of(token);
    int32_t piece_end = token + 1;
    int32_t first_position = OwnPosition(n, token);
    int32_t last_position = first_position;
    if (path) {
      // One test for all: rows are seen by everything after them in the subtree.
      if (visible) limit = std::min(limit, n.cached_tokens + rows.end - n.first_row);
      piece_end = limit;
      last_position += limit - token - 1;
    } else {
      while (piece_end < limit && seen(piece_end) == visible && here(piece_end)) {
        row_end = std::max(row_end, end_of(piece_end));
        first_position = std::min(first_position, OwnPosition(n, piece_end));
        last_position = std::max(last_position, OwnPosition(n, piece_end));
        ++piece_end;
      }
    }
    PlanEntry entry;
    entry.block = batch_.blocks[static_cast<size_t>(n.first_block + token / batch_.block_tokens)];
    entry.first_kv_slot = static_cast<int16_t>(token % batch_.block_tokens);
    entry.tokens = static_cast<int16_t>(piece_end - token);
    entry.position = OwnPosition(n, token);
    entry.row_begin = visible ? std::max(row_of(token), rows.begin) : rows.begin;
    entry.row_end = visible ? std::min(row_end, rows.end) : rows.begin;
    entry.first_own_row = row_of(token);
    entries->push_back(entry);
    Count({entry.row_begin, entry.row_end}, entry.tokens, first_position, last_position + 1, segment);
    token = piece_end;
  }
}

void KvRangeBuilder::AddCursor(int32_t node, int32_t token_begin, int32_t token_end) {
  const BatchNode& n = batch_.nodes[static_cast<size_t>(node)];
  const int32_t end = std::min(token_end, n.cached_tokens + n.rows);
  if (token_begin >= end) return;
  // Where rows branch, none lies before the first of them.
  const int32_t position =
      token_begin < n.cached_tokens ? n.begin_position + token_begin : OwnPosition(n, n.cached_tokens);
  cursors_.push_back({node, token_begin, end, position / kSegmentTokens});
}

bool KvRangeBuilder::AppendSegment(Cursor* cursor, RowRange rows, PlanSegment* segment,
                                   std::vector<PlanEntry>* entries) const {
  const BatchNode& n = batch_.nodes[static_cast<size_t>(cursor->node)];
  ++cursor->segment;
  // If positions are a path's.
  const int32_t end_token = (segment->index + 1) * kSegmentTokens - n.begin_position;
  if (cursor->token < n.cached_tokens) {
    const int32_t end = std::min({cursor->end, n.cached_tokens, end_token});
    AppendCached(n, rows, cursor->token, end, segment, entries);
    cursor->token = end;
    if (end == cursor->end) return false;
    if (end < n.cached_tokens || OwnPosition(n, end) / kSegmentTokens > segment->index) return true;
  }
  if (rows_are_path_[static_cast<size_t>(cursor->node)] != 0) {
    const int32_t end = std::min(cursor->end, std::max(cursor->token, end_token));
    AppendOwn(cursor->node, rows, cursor->token, end, segment, entries);
    cursor->token = end;
    return end < cursor->end;
  }
  AppendOwn(cursor->node, rows, cursor->token, cursor->end, segment, entries);
  // A branch of rows is no longer than there are rows.
  return n.begin_position + n.cached_tokens + n.rows > cursor->segment * kSegmentTokens;
}

void KvRangeBuilder::AppendCursors(RowRange rows, AttentionPlan* plan) {
  while (!cursors_.empty()) {
    PlanSegment segment;
    segment.index = cursors_.front().segment;
    segment.first_entry = static_cast<int32_t>(plan->entries.size());
    for (const Cursor& cursor : cursors_) segment.index = std::min(segment.index, cursor.segment);
    size_t kept = 0;
    for (Cursor& cursor : cursors_) {
      const bool left =
          cursor.segment != segment.index || AppendSegment(&cursor, rows, &segment, &plan->entries);
      if (left) cursors_[kept++] = cursor;
    }
    cursors_.resize(kept);
    segment.entries = static_cast<int32_t>(plan->entries.size()) - segment.first_entry;
    if (segment.entries > 0) plan->segments.push_back(segment);
  }
}

void KvRangeBuilder::AppendRows(RowRange rows, AttentionPlan* plan) {
  const int32_t first_node = batch_.row_node[static_cast<size_t>(rows.begin)];
  path_.clear();
  for (int32_t node = first_node; node >= 0; node = batch_.nodes[static_cast<size_t>(node)].parent) {
    path_.push_back(node);
  }
  cursors_.clear();
  for (auto node = path_.rbegin(); node != path_.rend(); ++node) AddCursor(*node, 0, kAllTokens);
  for (size_t node = static_cast<size_t>(first_node) + 1;
       node < batch_.nodes.size() && batch_.nodes[node].first_row < rows.end; ++node) {
    AddCursor(static_cast<int32_t>(node), 0, kAllTokens);
  }
  AppendCursors(rows, plan);
}

void KvRangeBuilder::AppendNode(int32_t node, RowRange rows, int32_t token_begin, int32_t token_end,
                                AttentionPlan* plan) {
  cursors_.clear();
  AddCursor(node, token_begin, token_end);
  AppendCursors(rows, plan);
}

void KvRangeBuilder::AppendTree(int32_t node_begin, int32_t node_end, RowRange rows, AttentionPlan* plan) {
  cursors_.clear();
  for (int32_t node = node_begin; node < node_end; ++node) AddCursor(node, 0, kAllTokens);
  AppendCursors(rows, plan);
}

size_t KvRangeBuilder::GuessEntries(const std::vector<RowRange>& tiles) const {
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

}  // namespace espalier::plan
