#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/plan/attention_plan.h"
#include "kernels/plan/tree_batch.h"

namespace espalier::plan {

// A border between tiles counts as this many tokens on top of those that both tiles then load.
inline constexpr int64_t kTileTokens = 16;
// Neighbouring rows that share less than this part (one in ...) of the shorter path go to separate tiles: the
// gain is small, and single rows never need partials when work is spread.
inline constexpr int32_t kMinSharedPart = 8;

struct RowRange {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t size() const { return end - begin; }
};

// Cuts the rows of a batch into tiles of at most `max_rows` so that the tokens loaded twice, because a border
// falls between two rows that see them, are fewest. Linear in rows and nodes.
std::vector<RowRange> TileRows(const TreeBatch& batch, int32_t max_rows);

// Tokens that both row - 1 and row see, for each row of the batch (0 for row 0).
std::vector<int32_t> SharedWithPreviousRow(const TreeBatch& batch);

// Appends the segments and entries of the KV that rows see to a plan.
class KvRangeBuilder {
 public:
  // `keep_unseen`: append tokens that none of the asked rows sees, too (kMasked).
  KvRangeBuilder(const TreeBatch& batch, bool keep_unseen);

  // Appends everything that `rows` see.
  void AppendRows(RowRange rows, AttentionPlan* plan);
  // Appends what `rows` see of the tokens [token_begin, token_end) of a node.
  void AppendNode(int32_t node, RowRange rows, int32_t token_begin, int32_t token_end, AttentionPlan* plan);
  // Appends all tokens of nodes [node_begin, node_end), a whole tree.
  void AppendTree(int32_t node_begin, int32_t node_end, RowRange rows, AttentionPlan* plan);
  // About how many entries AppendRows will append for all tiles together; more where rows of a node branch.
  size_t GuessEntries(const std::vector<RowRange>& tiles) const;

 private:
  // Where the entries of a node go on, and where they end.
  struct Cursor {
    int32_t node = 0;
    int32_t token = 0;
    int32_t end = 0;
    int32_t segment = 0;  // of `token`; where rows branch, the least of those left
  };

  void AddCursor(int32_t node, int32_t token_begin, int32_t token_end);
  void AppendCursors(RowRange rows, AttentionPlan* plan);
  // Appends what lies in `segment` to its entries and counts it there; false if nothing is left then.
  bool AppendSegment(Cursor* cursor, RowRange rows, PlanSegment* segment,
                     std::vector<PlanEntry>* entries) const;
  void AppendCached(const BatchNode& node, RowRange rows, int32_t begin, int32_t end, PlanSegment* segment,
                    std::vector<PlanEntry>* entries) const;
  void AppendOwn(int32_t node, RowRange rows, int32_t begin, int32_t end, PlanSegment* segment,
                 std::vector<PlanEntry>* entries) const;
  int32_t OwnPosition(const BatchNode& node, int32_t token) const;

  const TreeBatch& batch_;
  bool keep_unseen_;
  std::vector<uint8_t> rows_are_path_;  // [nodes] the node's rows see one another as a chain
  std::vector<int32_t> path_;
  std::vector<Cursor> cursors_;  // pre-order
};

// What an item is made of before it is known whether it is cut.
struct Tile {
  RowRange rows;
  int32_t first_segment = 0;
  int32_t segments = 0;
  int64_t tokens = 0;  // of the segments
  int64_t cost = 0;    // of the segments, for one KV head
};

// A tile or, where KV is cut, a run of its segments.
struct TilePart {
  int32_t tile = 0;
  int32_t first_segment = 0;
  int32_t segments = 0;
  int64_t cost = 0;
  bool whole = true;
};

inline int64_t CostOf(const PlanSegment& segment, int32_t group, const PlanCosts& costs) {
  return segment.tokens * costs.token + segment.pairs * group;
}

struct Cuts {
  std::vector<TilePart> parts;  // in the order of their tiles, segments ascending
  int64_t time = 0;             // when the last processor ends, by the cost model
};

// Cuts the tiles that keep processors from ending together, on segment borders; others stay whole. The cut
// tiles form at most options.max_partials partials.
Cuts CutTiles(const std::vector<Tile>& tiles, const std::vector<PlanSegment>& segments,
              const AttentionShape& shape, const PlanOptions& options);

// Smaller gains are not worth more cuts or lower tiles: one part in this many.
inline constexpr int64_t kEvenPart = 32;

}  // namespace espalier::plan
