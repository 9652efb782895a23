#include "kernels/plan/attention_plan.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "kernels/plan/plan_builder.h"

namespace espalier {

namespace {

using plan::KvRangeBuilder;
using plan::RowRange;
using plan::Tile;
using plan::TilePart;

constexpr std::array<std::pair<AttentionMode, std::string_view>, 5> kModeNames = {{
    {AttentionMode::kFlatten, "flatten"},
    {AttentionMode::kSequence, "sequence"},
    {AttentionMode::kMasked, "masked"},
    {AttentionMode::kNode, "node"},
    {AttentionMode::kNodeChunk, "node_chunk"},
}};

class Planner {
 public:
  Planner(const TreeBatch& batch, const AttentionShape& shape, const PlanOptions& options)
      : batch_(batch),
        shape_(shape),
        options_(options),
        kv_ranges_(batch, options.mode == AttentionMode::kMasked) {
    plan_.mode = options.mode;
  }

  AttentionPlan Run() {
    switch (options_.mode) {
      case AttentionMode::kFlatten:
        AddRowTiles(options_.max_tile_rows);
        LowerTiles();
        break;
      case AttentionMode::kSequence:
        AddSingleRows();
        Cut();
        break;
      case AttentionMode::kMasked:
        AddTrees();
        Cut();
        break;
      case AttentionMode::kNode:
        AddNodes(std::numeric_limits<int32_t>::max());
        break;
      case AttentionMode::kNodeChunk:
        AddNodes(options_.chunk_tokens);
        break;
    }
    MakeItems();
    MakeMergeLists();
    Account();
    return std::move(plan_);
  }

 private:
  // A tile of the segments from `first_segment` on.
  void CloseTile(RowRange rows, size_t first_segment) {
    Tile tile;
    tile.rows = rows;
    tile.first_segment = static_cast<int32_t>(first_segment);
    tile.segments = static_cast<int32_t>(plan_.segments.size() - first_segment);
    for (size_t s = first_segment; s < plan_.segments.size(); ++s) {
      const PlanSegment& segment = plan_.segments[s];
      tile.tokens += segment.tokens;
      tile.cost += plan::CostOf(segment, shape_.group(), options_.costs);
    }
    tiles_.push_back(tile);
  }

  void AddRowTile(RowRange rows) {
    const size_t first = plan_.segments.size();
    kv_ranges_.AppendRows(rows, &plan_);
    CloseTile(rows, first);
  }

  void Cut() { cuts_ = plan::CutTiles(tiles_, plan_.segments, shape_, options_); }

  // Room is made once: a plan of megabytes that grows by doubling takes most of its time from the kernel.
  void AddTiles(const std::vector<RowRange>& tiles) {
    plan_.entries.reserve(kv_ranges_.GuessEntries(tiles));
    tiles_.reserve(tiles.size());
    for (const RowRange rows : tiles) AddRowTile(rows);
  }

  void AddSingleRows() {
    std::vector<RowRange> tiles;
    tiles.reserve(static_cast<size_t>(batch_.rows()));
    for (int32_t row = 0; row < batch_.rows(); ++row) tiles.push_back({row, row + 1});
    AddTiles(tiles);
  }

  void AddRowTiles(int32_t max_rows) {
    AddTiles(plan::TileRows(batch_, max_rows));
    Cut();
  }

  // While there are fewer units of work than processors and no segment left to cut, lower tiles share the
  // work of the rows at the price of loading their KV more than once.
  void LowerTiles() {
    int32_t height = std::min(options_.max_tile_rows, batch_.rows());
    while (height > 1 && static_cast<int64_t>(cuts_.parts.size()) * shape_.kv_heads < options_.processors) {
      height = (height + 1) / 2;
      std::vector<Tile> tiles = std::exchange(tiles_, {});
      std::vector<PlanSegment> segments = std::exchange(plan_.segments, {});
      std::vector<PlanEntry> entries = std::exchange(plan_.entries, {});
      plan::Cuts cuts = std::exchange(cuts_, {});
      AddRowTiles(height);
      if (cuts_.time < cuts.time - cuts.time / plan::kEvenPart) continue;
      tiles_ = std::move(tiles);
      plan_.segments = std::move(segments);
      plan_.entries = std::move(entries);
      cuts_ = std::move(cuts);
      return;
    }
  }

  // The rows of `all` in as few tiles as max_tile_rows allows, all about equally high.
  template <typename AddTile>
  void SplitRows(RowRange all, AddTile add_tile) const {
    const int32_t tiles = (all.size() + options_.max_tile_rows - 1) / options_.max_tile_rows;
    for (int32_t t = 0; t < tiles; ++t) {
      const auto at = [&](int32_t i) {
        return all.begin + static_cast<int32_t>(int64_t{all.size()} * i / tiles);
      };
      add_tile(RowRange{at(t), at(t + 1)});
    }
  }

  void AddTrees() {
    const auto count = static_cast<int32_t>(batch_.nodes.size());
    for (int32_t root = 0; root < count;) {
      int32_t end = root + 1;
      while (end < count && batch_.nodes[static_cast<size_t>(end)].parent >= 0) ++end;
      const BatchNode& node = batch_.nodes[static_cast<size_t>(root)];
      SplitRows({node.first_row, node.subtree_end_row}, [&](RowRange rows) {
        const size_t first = plan_.segments.size();
        kv_ranges_.AppendTree(root, end, rows, &plan_);
        CloseTile(rows, first);
      });
      root = end;
    }
  }

  void AddNodes(int32_t chunk_tokens) {
    for (size_t n = 0; n < batch_.nodes.size(); ++n) {
      const BatchNode& node = batch_.nodes[n];
      const int32_t tokens = node.cached_tokens + node.rows;
      for (int32_t begin = 0; begin < tokens;) {
        const int32_t end = tokens - begin <= chunk_tokens ? tokens : begin + chunk_tokens;
        SplitRows({node.first_row, node.subtree_end_row}, [&](RowRange rows) {
          const size_t first = plan_.segments.size();
          kv_ranges_.AppendNode(static_cast<int32_t>(n), rows, begin, end, &plan_);
          if (plan_.segments.size() == first) return;
          CloseTile(rows, first);
          const Tile& tile = tiles_.back();
          const auto index = static_cast<int32_t>(tiles_.size()) - 1;
          cuts_.parts.push_back({index, tile.first_segment, tile.segments, tile.cost, false});
        });
        begin = end;
      }
    }
  }

  // Items in the order of tiles, partials numbered as they come; then sorted, costliest first.
  void MakeItems() {
    const std::vector<TilePart>& parts = cuts_.parts;
    std::vector<PlanItem> items;
    items.reserve(parts.size());
    for (const TilePart& part : parts) items.push_back(MakeItem(part));

    std::vector<int32_t> order(items.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return parts[static_cast<size_t>(a)].cost > parts[static_cast<size_t>(b)].cost;
    });
    plan_.items.reserve(items.size());
    for (const int32_t i : order) plan_.items.push_back(items[static_cast<size_t>(i)]);
  }

  PlanItem MakeItem(const TilePart& part) {
    const Tile& tile = tiles_[static_cast<size_t>(part.tile)];
    PlanItem item;
    item.first_row = tile.rows.begin;
    item.rows = tile.rows.size();
    item.first_segment = part.first_segment;
    item.segments = part.segments;
    if (part.whole) return item;

    if (options_.mode != AttentionMode::kMasked) ClipToViewers(&item);
    item.first_partial = plan_.partials;
    plan_.partials += item.segments * item.rows;
    CollectPartials(item);
    return item;
  }

  // Rows that see nothing of a part need no partials there.
  void ClipToViewers(PlanItem* item) const {
    int32_t begin = std::numeric_limits<int32_t>::max();
    int32_t end = 0;
    for (const PlanSegment& segment : plan_.SegmentsOf(*item)) {
      begin = std::min(begin, segment.row_begin);
      end = std::max(end, segment.row_end);
    }
    item->first_row = begin;
    item->rows = end - begin;
  }

  // Notes, for each segment of the item, the partials of the rows that see something in it.
  void CollectPartials(const PlanItem& item) {
    std::vector<int32_t> change;  // [rows + 1] tokens whose viewers begin minus those whose end before a row
    int32_t first_partial = item.first_partial;
    for (const PlanSegment& segment : plan_.SegmentsOf(item)) {
      change.assign(static_cast<size_t>(item.rows) + 1, 0);
      for (int32_t e = segment.first_entry; e < segment.first_entry + segment.entries; ++e) {
        MarkViewers(plan_.entries[static_cast<size_t>(e)], item.first_row, &change);
      }
      int32_t seen = 0;
      for (int32_t row = 0; row < item.rows; ++row) {
        seen += change[static_cast<size_t>(row)];
        if (seen > 0) partials_of_rows_.emplace_back(item.first_row + row, first_partial + row);
      }
      first_partial += item.rows;
    }
  }

  void MarkViewers(const PlanEntry& entry, int32_t first_row, std::vector<int32_t>* change) const {
    const auto mark = [&](int32_t begin, int32_t end) {
      if (begin >= end) return;
      ++(*change)[static_cast<size_t>(begin - first_row)];
      --(*change)[static_cast<size_t>(end - first_row)];
    };
    if (entry.first_own_row < 0) {
      mark(entry.row_begin, entry.row_end);
      return;
    }
    for (int32_t row = entry.first_own_row; row < entry.first_own_row + entry.tokens; ++row) {
      mark(std::max(row, entry.row_begin),
           std::min(batch_.row_subtree_end[static_cast<size_t>(row)], entry.row_end));
    }
  }

  // Sorts by row. Partials were collected along each row's path, so their order within a row is right.
  void MakeMergeLists() {
    std::vector<int32_t> begin(static_cast<size_t>(batch_.rows()) + 1, 0);
    for (const auto& [row, partial] : partials_of_rows_) ++begin[static_cast<size_t>(row) + 1];
    plan_.merge_begin.push_back(0);
    for (int32_t row = 0; row < batch_.rows(); ++row) {
      const auto r = static_cast<size_t>(row);
      if (begin[r + 1] > 0) {
        plan_.merge_rows.push_back(row);
        plan_.merge_begin.push_back(begin[r] + begin[r + 1]);
      }
      begin[r + 1] += begin[r];
    }
    plan_.merge_partials.resize(partials_of_rows_.size());
    for (const auto& [row, partial] : partials_of_rows_) {
      plan_.merge_partials[static_cast<size_t>(begin[static_cast<size_t>(row)]++)] = partial;
    }
  }

  void Account() {
    PlanAccounting& sums = plan_.accounting;
    int64_t tokens_read = 0;
    for (const Tile& tile : tiles_) tokens_read += tile.tokens;
    int64_t pairs = 0;  // a row sees every position up to its own
    for (const int32_t position : batch_.row_position) pairs += int64_t{position} + 1;
    const int64_t token_bytes = shape_.KvBytesPerTokenLayer() * shape_.layers;
    sums.kv_read_bytes = tokens_read * token_bytes;
    sums.kv_read_bytes_sequence = pairs * token_bytes;
    const int64_t partial_bytes = int64_t{4} * shape_.query_heads * (shape_.head_dim + 2) * shape_.layers;
    sums.partial_bytes = (plan_.partials + static_cast<int64_t>(plan_.merge_partials.size())) * partial_bytes;
    sums.flop = pairs * 4 * shape_.query_heads * shape_.head_dim * shape_.layers;
    if (plan_.mode != AttentionMode::kMasked) return;
    int64_t mask_bits = 0;
    for (const Tile& tile : tiles_) mask_bits += tile.tokens * tile.rows.size();
    sums.mask_bytes = (mask_bits + 7) / 8 * shape_.layers;
  }

  const TreeBatch& batch_;
  const AttentionShape& shape_;
  const PlanOptions& options_;
  KvRangeBuilder kv_ranges_;
  std::vector<Tile> tiles_;
  plan::Cuts cuts_;
  std::vector<std::pair<int32_t, int32_t>> partials_of_rows_;  // row, partial
  AttentionPlan plan_;
};

}  // namespace

std::string_view Name(AttentionMode mode) {
  for (const auto& [value, name] : kModeNames) {
    if (value == mode) return name;
  }
  return "unknown";
}

std::optional<AttentionMode> ParseAttentionMode(std::string_view name) {
  for (const auto& [mode, mode_name] : kModeNames) {
    if (mode_name == name) return mode;
  }
  return std::nullopt;
}

AttentionPlan PlanAttention(const TreeBatch& batch, const AttentionShape& shape, const PlanOptions& options) {
  ESPALIER_CHECK(options.max_tile_rows > 0 && options.chunk_tokens > 0);
  ESPALIER_CHECK(shape.kv_heads > 0 && shape.query_heads % shape.kv_heads == 0);
  return Planner(batch, shape, options).Run();
}

}  // namespace espalier
