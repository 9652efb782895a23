#include <algorithm>
#include <limits>
#include <string>

#include "kernels/plan/attention_plan.h"

namespace espalier {

namespace {

// Replays a plan token by token against the paths of the rows, found by walking the parents.
class PlanChecker {
 public:
  PlanChecker(const TreeBatch& batch, const AttentionPlan& plan, const PlanOptions& options)
      : batch_(batch), plan_(plan), options_(options) {}

  Status Run() {
    CollectPaths();
    const auto rows = static_cast<size_t>(batch_.rows());
    written_.assign(rows, 0);
    partial_position_.assign(static_cast<size_t>(std::max(plan_.partials, 0)), kFree);
    segment_item_.resize(rows);
    for (size_t row = 0; row < rows; ++row)
      segment_item_[row].assign(slots_[row].size() / kSegmentTokens + 1, -1);
    for (size_t i = 0; i < plan_.items.size(); ++i) {
      if (Status status = CheckItem(static_cast<int32_t>(i)); !status) return status;
    }
    for (size_t row = 0; row < rows; ++row) {
      if (std::any_of(slots_[row].begin(), slots_[row].end(), [](int64_t slot) { return slot != kDone; })) {
        return Fail("row " + std::to_string(row) + " misses a token that it sees");
      }
    }
    return CheckMergeLists();
  }

 private:
  static constexpr int64_t kDone = -1;
  static constexpr int32_t kFree = std::numeric_limits<int32_t>::max();       // no item owns the partial
  static constexpr int32_t kEmpty = std::numeric_limits<int32_t>::max() - 1;  // owned, its row sees nothing

  static Status Fail(std::string message) { return InvalidArgument("plan", std::move(message)); }
  static Status FailAt(int32_t item, const std::string& message) {
    return InvalidArgument("plan.items[" + std::to_string(item) + "]", message);
  }
  bool KeepsSegments() const {
    return plan_.mode != AttentionMode::kNode && plan_.mode != AttentionMode::kNodeChunk;
  }
  const BatchNode& node(int32_t index) const { return batch_.nodes[static_cast<size_t>(index)]; }
  int64_t KvSlotOf(const BatchNode& n, int32_t token) const {
    const int64_t block = batch_.blocks[static_cast<size_t>(n.first_block + token / batch_.block_tokens)];
    return block * batch_.block_tokens + token % batch_.block_tokens;
  }

  // slots_[row][position]: where the token that the row sees at that position lies.
  void CollectPaths() {
    slots_.resize(static_cast<size_t>(batch_.rows()));
    for (int32_t row = 0; row < batch_.rows(); ++row) {
      auto& slots = slots_[static_cast<size_t>(row)];
      slots.resize(static_cast<size_t>(batch_.row_position[static_cast<size_t>(row)]) + 1, kDone);
      for (int32_t i = batch_.row_node[static_cast<size_t>(row)]; i >= 0; i = node(i).parent) {
        const BatchNode& n = node(i);
        for (int32_t token = 0; token < n.cached_tokens; ++token) {
          slots[static_cast<size_t>(n.begin_position + token)] = KvSlotOf(n, token);
        }
        for (int32_t own = n.first_row; own < n.first_row + n.rows && own <= row; ++own) {
          if (batch_.row_subtree_end[static_cast<size_t>(own)] <= row) continue;
          slots[static_cast<size_t>(batch_.row_position[static_cast<size_t>(own)])] = batch_.KvSlotOfRow(own);
        }
      }
    }
  }

  Status CheckItem(int32_t index) {
    const PlanItem& item = plan_.items[static_cast<size_t>(index)];
    const int32_t max_rows = plan_.mode == AttentionMode::kSequence ? 1 : options_.max_tile_rows;
    if (item.rows <= 0 || item.rows > max_rows) return FailAt(index, "wrong number of rows");
    if (item.first_row < 0 || item.first_row > batch_.rows() - item.rows)
      return FailAt(index, "rows outside");
    if (item.segments <= 0 || item.first_segment < 0 ||
        item.first_segment > static_cast<int32_t>(plan_.segments.size()) - item.segments) {
      return FailAt(index, "segments outside");
    }
    if (Status status = ClaimOutputs(index); !status) return status;

    last_position_.assign(static_cast<size_t>(item.rows), -1);
    for (int32_t s = item.first_segment; s < item.first_segment + item.segments; ++s) {
      const PlanSegment& segment = plan_.segments[static_cast<size_t>(s)];
      if (segment.entries <= 0 || segment.first_entry < 0 ||
          segment.first_entry > static_cast<int32_t>(plan_.entries.size()) - segment.entries) {
        return FailAt(index, "entries outside");
      }
      if (s > item.first_segment) {
        const PlanSegment& last = plan_.segments[static_cast<size_t>(s - 1)];
        if (segment.index <= last.index) return FailAt(index, "segments not ascending");
        if (segment.first_entry != last.first_entry + last.entries)
          return FailAt(index, "entries of its segments do not lie side by side");
      }
      if (Status status = CheckSegment(index, item, s); !status) return status;
    }
    return {};
  }

  // The entries of a segment, and that it says of them what they are.
  Status CheckSegment(int32_t index, const PlanItem& item, int32_t s) {
    const PlanSegment& segment = plan_.segments[static_cast<size_t>(s)];
    PlanSegment sums;
    sums.row_begin = sums.column_begin = std::numeric_limits<int32_t>::max();
    for (int32_t e = segment.first_entry; e < segment.first_entry + segment.entries; ++e) {
      const PlanEntry& entry = plan_.entries[static_cast<size_t>(e)];
      if (entry.position / kSegmentTokens != segment.index)
        return FailAt(index, "an entry of another segment");
      if (Status status = CheckEntry(index, item, s, entry); !status) return status;
      sums.tokens += entry.tokens;
      sums.pairs += int64_t{entry.tokens} * (entry.row_end - entry.row_begin);
      if (entry.row_begin == entry.row_end) continue;
      sums.row_begin = std::min(sums.row_begin, entry.row_begin);
      sums.row_end = std::max(sums.row_end, entry.row_end);
      for (int32_t token = 0; token < entry.tokens; ++token) {
        const int32_t own = entry.first_own_row + token;
        const int32_t position =
            entry.first_own_row < 0 ? entry.position + token : batch_.row_position[static_cast<size_t>(own)];
        sums.column_begin = std::min(sums.column_begin, position % kSegmentTokens);
        sums.column_end = std::max(sums.column_end, position % kSegmentTokens + 1);
      }
    }
    if (sums.row_end == 0) sums.row_begin = sums.column_begin = 0;
    const bool same = segment.tokens == sums.tokens && segment.pairs == sums.pairs &&
                      segment.row_begin == sums.row_begin && segment.row_end == sums.row_end &&
                      segment.column_begin == sums.column_begin && segment.column_end == sums.column_end;
    if (!same) return FailAt(index, "a segment's sums are not those of its entries");
    return {};
  }

  // An item without partials owns its rows' output; others own their partials.
  Status ClaimOutputs(int32_t index) {
    const PlanItem& item = plan_.items[static_cast<size_t>(index)];
    if (item.first_partial < 0) {
      for (int32_t row = item.first_row; row < item.first_row + item.rows; ++row) {
        if (written_[static_cast<size_t>(row)]++ > 0) return FailAt(index, "writes a row again");
      }
      return {};
    }
    const int64_t end = int64_t{item.first_partial} + int64_t{item.segments} * item.rows;
    if (end > plan_.partials) {
      return FailAt(index, "partials outside");
    }
    for (int64_t p = item.first_partial; p < end; ++p) {
      if (partial_position_[static_cast<size_t>(p)] != kFree) return FailAt(index, "partial of another item");
      partial_position_[static_cast<size_t>(p)] = kEmpty;
    }
    return {};
  }

  Status CheckEntry(int32_t index, const PlanItem& item, int32_t segment, const PlanEntry& entry) {
    if (entry.tokens <= 0 || entry.first_kv_slot < 0 ||
        entry.first_kv_slot + entry.tokens > batch_.block_tokens) {
      return FailAt(index, "an entry leaves its block");
    }
    const bool unseen = plan_.mode == AttentionMode::kMasked && entry.row_begin == entry.row_end;
    if (!unseen && (entry.row_begin < item.first_row || entry.row_end > item.first_row + item.rows ||
                    entry.row_begin >= entry.row_end)) {
      return FailAt(index, "an entry's rows lie outside the item");
    }
    if (entry.first_own_row >= 0) return CheckOwnEntry(index, item, segment, entry, unseen);
    if (entry.position % kSegmentTokens + entry.tokens > kSegmentTokens) {
      return FailAt(index, "an entry crosses a segment border");
    }
    for (int32_t token = 0; token < entry.tokens; ++token) {
      for (int32_t row = entry.row_begin; row < entry.row_end; ++row) {
        if (Status status = See(index, item, segment, row, entry.position + token, KvSlot(entry, token));
            !status)
          return status;
      }
    }
    return {};
  }

  Status CheckOwnEntry(int32_t index, const PlanItem& item, int32_t segment, const PlanEntry& entry,
                       bool unseen) {
    if (entry.first_own_row > batch_.rows() - entry.tokens)
      return FailAt(index, "own rows outside the batch");
    const auto first = static_cast<size_t>(entry.first_own_row);
    if (batch_.row_position[first] != entry.position)
      return FailAt(index, "an own token's position is wrong");
    int32_t last_end = 0;
    for (int32_t token = 0; token < entry.tokens; ++token) {
      const int32_t own = entry.first_own_row + token;
      const int32_t position = batch_.row_position[static_cast<size_t>(own)];
      const int32_t end = batch_.row_subtree_end[static_cast<size_t>(own)];
      if (batch_.KvSlotOfRow(own) != KvSlot(entry, token))
        return FailAt(index, "an own token's KV slot is wrong");
      if (position / kSegmentTokens != entry.position / kSegmentTokens) {
        return FailAt(index, "an entry crosses a segment border");
      }
      last_end = std::max(last_end, end);
      for (int32_t row = std::max(own, entry.row_begin); row < std::min(end, entry.row_end); ++row) {
        if (Status status = See(index, item, segment, row, position, KvSlot(entry, token)); !status)
          return status;
      }
    }
    const bool exact = entry.row_begin == std::max(entry.first_own_row, item.first_row) &&
                       entry.row_end == std::min(last_end, item.first_row + item.rows);
    if (!unseen && !exact) return FailAt(index, "an entry's rows are not the union of its tokens' rows");
    return {};
  }

  int64_t KvSlot(const PlanEntry& entry, int32_t token) const {
    return int64_t{entry.block} * batch_.block_tokens + entry.first_kv_slot + token;
  }

  // Row `row` of the item meets the token at `position` in the plan's segment `s`: it must see it, and not
  // have met it before.
  Status See(int32_t index, const PlanItem& item, int32_t s, int32_t row, int32_t position, int64_t slot) {
    auto& slots = slots_[static_cast<size_t>(row)];
    const auto fail = [&](const char* what) {
      return FailAt(index,
                    "row " + std::to_string(row) + " position " + std::to_string(position) + ": " + what);
    };
    if (position < 0 || position >= static_cast<int32_t>(slots.size()) ||
        slots[static_cast<size_t>(position)] != slot) {
      return fail("not visible, or met twice");
    }
    slots[static_cast<size_t>(position)] = kDone;
    int32_t& last = last_position_[static_cast<size_t>(row - item.first_row)];
    if (position <= last) return fail("out of order");
    last = position;
    const int32_t segment = position / kSegmentTokens;
    if (KeepsSegments()) {
      int32_t& owner = segment_item_[static_cast<size_t>(row)][static_cast<size_t>(segment)];
      if (owner >= 0 && owner != index) return fail("its segment is cut");
      owner = index;
    }
    if (item.first_partial >= 0) {
      const int32_t partial =
          item.first_partial + (s - item.first_segment) * item.rows + row - item.first_row;
      int32_t& first = partial_position_[static_cast<size_t>(partial)];
      first = std::min(first, position);
    }
    return {};
  }

  // Every partial that is not empty is merged once, by its own row, in ascending position.
  Status CheckMergeLists() {
    const size_t count = plan_.merge_rows.size();
    if (plan_.merge_begin.size() != count + 1 || plan_.merge_begin.front() != 0 ||
        plan_.merge_begin.back() != static_cast<int32_t>(plan_.merge_partials.size()) ||
        !std::is_sorted(plan_.merge_begin.begin(), plan_.merge_begin.end())) {
      return Fail("merge_begin is not a partition of merge_partials");
    }
    const std::vector<int32_t> row_of_partial = RowsOfPartials();
    for (size_t i = 0; i < count; ++i) {
      const int32_t row = plan_.merge_rows[i];
      if (row < 0 || row >= batch_.rows()) return Fail("merge row outside");
      if (written_[static_cast<size_t>(row)]++ > 0)
        return Fail("row " + std::to_string(row) + " written twice");
      int32_t last = -1;
      for (int32_t m = plan_.merge_begin[i]; m < plan_.merge_begin[i + 1]; ++m) {
        const int32_t partial = plan_.merge_partials[static_cast<size_t>(m)];
        if (partial < 0 || partial >= plan_.partials) return Fail("merged partial outside");
        int32_t& position = partial_position_[static_cast<size_t>(partial)];
        if (position >= kEmpty) return Fail("an empty partial is merged, or one is merged twice");
        if (row_of_partial[static_cast<size_t>(partial)] != row)
          return Fail("a partial of another row is merged");
        if (position <= last) return Fail("partials are merged out of order");
        last = position;
        position = kEmpty;
      }
    }
    if (std::any_of(partial_position_.begin(), partial_position_.end(),
                    [](int32_t p) { return p != kEmpty; })) {
      return Fail("a partial is never merged, or belongs to no item");
    }
    if (std::find(written_.begin(), written_.end(), 0) != written_.end())
      return Fail("a row is never written");
    return {};
  }

  std::vector<int32_t> RowsOfPartials() const {
    std::vector<int32_t> rows(partial_position_.size(), -1);
    for (const PlanItem& item : plan_.items) {
      if (item.first_partial < 0) continue;
      for (int32_t i = 0; i < item.segments * item.rows; ++i) {
        rows[static_cast<size_t>(item.first_partial + i)] = item.first_row + i % item.rows;
      }
    }
    return rows;
  }

  const TreeBatch& batch_;
  const AttentionPlan& plan_;
  const PlanOptions& options_;
  std::vector<std::vector<int64_t>> slots_;
  std::vector<std::vector<int32_t>> segment_item_;  // [row][segment] the item that holds it
  std::vector<int32_t> written_;                    // [rows] how often
  std::vector<int32_t> last_position_;              // [rows of the item] last position met
  std::vector<int32_t> partial_position_;           // [partials] first position merged, kFree or kEmpty
};

}  // namespace

Status CheckPlan(const TreeBatch& batch, const AttentionPlan& plan, const PlanOptions& options) {
  return PlanChecker(batch, plan, options).Run();
}

}  // namespace espalier
