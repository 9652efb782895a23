#include <algorithm>
#include <deque>

#include "kernels/plan/plan_builder.h"

namespace espalier::plan {

std::vector<int32_t> SharedWithPreviousRow(const TreeBatch& batch) {
  // In pre-order, row r sees what row r - 1 sees but for its own token and the cached tokens of nodes that
  // begin at r: an interval of viewers that holds r and begins earlier holds r - 1.
  std::vector<int32_t> shared(batch.row_position);
  for (const BatchNode& node : batch.nodes) shared[static_cast<size_t>(node.first_row)] -= node.cached_tokens;
  if (!shared.empty()) shared[0] = 0;
  return shared;
}

std::vector<RowRange> TileRows(const TreeBatch& batch, int32_t max_rows) {
  const int32_t rows = batch.rows();
  const std::vector<int32_t> shared = SharedWithPreviousRow(batch);
  const auto must_part = [&](int32_t row) {
    const auto r = static_cast<size_t>(row);
    const int64_t shorter = std::min(batch.row_position[r - 1], batch.row_position[r]) + 1;
    return int64_t{shared[r]} * kMinSharedPart < shorter;
  };

  // cost[e]: the least cost of tiling rows [0, e). The last tile begins at one of the last max_rows rows and
  // not before the last forced border; a queue of ascending costs keeps the best such beginning in front.
  std::vector<int64_t> cost(static_cast<size_t>(rows) + 1, 0);
  std::vector<int32_t> tile_begin(static_cast<size_t>(rows) + 1, 0);
  std::deque<int32_t> begins;
  const auto cost_of_begin = [&](int32_t row) {
    return cost[static_cast<size_t>(row)] + shared[static_cast<size_t>(row)] + kTileTokens;
  };
  for (int32_t end = 1; end <= rows; ++end) {
    const int32_t begin = end - 1;
    if (begin > 0 && must_part(begin)) begins.clear();
    while (!begins.empty() && cost_of_begin(begins.back()) >= cost_of_begin(begin)) begins.pop_back();
    begins.push_back(begin);
    while (begins.front() < end - max_rows) begins.pop_front();
    tile_begin[static_cast<size_t>(end)] = begins.front();
    cost[static_cast<size_t>(end)] = cost_of_begin(begins.front());
  }

  std::vector<RowRange> tiles;
  for (int32_t end = rows; end > 0; end = tile_begin[static_cast<size_t>(end)]) {
    tiles.push_back({tile_begin[static_cast<size_t>(end)], end});
  }
  std::reverse(tiles.begin(), tiles.end());
  return tiles;
}

}  // namespace espalier::plan
