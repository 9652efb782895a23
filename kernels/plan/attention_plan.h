#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/result.h"
#include "kernels/plan/tree_batch.h"

namespace espalier {

// Attention partials are formed for each run of this many absolute positions, counted from position 0,
// whether the KV is cut there or not; KV is cut only on these borders (modes `flatten` and `sequence`). A
// row's partials are merged from the first segment to the last. So the bits of a row do not depend on the
// plan, nor on what else is in the batch.
inline constexpr int32_t kSegmentTokens = 256;

// How a step's attention is divided into items. All modes give the same results within rounding.
enum class AttentionMode : uint8_t {
  kFlatten,    // DeFT-Flatten: tiles of rows over all KV they see, cut evenly where tiles alone cannot keep
               // processors busy
  kSequence,   // one item per row over its whole path: Flash-Decoding over paged memory (RadixAttention)
  kMasked,     // all rows of a tree against all its KV under a mask (Medusa)
  kNode,       // DeFT-Node: an item per node of the tree
  kNodeChunk,  // DeFT-Node-Chunk: nodes cut into chunks of equal length
};
std::string_view Name(AttentionMode mode);
std::optional<AttentionMode> ParseAttentionMode(std::string_view name);

// Heads and types of a model's attention.
struct AttentionShape {
  int32_t layers = 0;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;  // divides query_heads; GQA group = query_heads / kv_heads
  int32_t head_dim = 0;
  DType kv_dtype = DType::kBFloat16;
  // Width of a head in KV memory, for the accounting of bytes: head_dim rounded up to the backend's
  // BackendInfo::head_dim_multiple. 0: head_dim.
  int32_t stored_dim = 0;

  int32_t group() const { return query_heads / kv_heads; }
  // K and V of one token, one layer, all KV heads, as they lie in memory.
  int64_t KvBytesPerTokenLayer() const {
    const int32_t width = stored_dim > 0 ? stored_dim : head_dim;
    return int64_t{2} * kv_heads * width * static_cast<int64_t>(SizeOf(kv_dtype));
  }
};

// What work costs. Unit: the two multiply-adds (QK and PV) of one query head with one element of one KV
// token; so a token costs `token` once, and 1 for each query head that sees it. They decide where KV is cut,
// never the bits of a result. Defaults: measured on a CPU with AVX-512 and bf16 KV.
struct PlanCosts {
  int64_t token = 32;
  int64_t partial = 32;  // of writing and merging one partial of one query head
  int64_t item = 1024;   // of starting an item
};

// What the executing kernel can do and what work costs on it.
struct PlanOptions {
  AttentionMode mode = AttentionMode::kFlatten;
  int32_t max_tile_rows =
      64;  // rows of a tile; with the GQA group this is the height of the kernel's register tile
  int32_t processors = 1;      // threads or SMs that items * kv_heads should keep evenly busy
  int32_t chunk_tokens = 256;  // kNodeChunk: length of a chunk
  // Partials that the device has memory for: cuts that would need more are not made (kFlatten, kSequence).
  int64_t max_partials = std::numeric_limits<int64_t>::max();
  PlanCosts costs;
};

// A run of tokens in one KV block. Cached tokens (first_own_row < 0) are all seen by the rows [row_begin,
// row_end). Tokens written in this step: token i is row first_own_row + i, seen by [first_own_row + i,
// row_subtree_end[first_own_row + i]) within [row_begin, row_end), which here bounds the union.
// All of an entry's tokens lie in one segment: position / kSegmentTokens. Own tokens of a token tree need not
// follow one by one: the position of token i is row_position[first_own_row + i]. Rows are rows of the batch,
// already clipped to the item's. Only kMasked lists tokens that no row of the item sees (row_begin ==
// row_end); they count as read.
struct PlanEntry {
  int32_t block = 0;
  int16_t first_kv_slot = 0;
  int16_t tokens = 0;
  int32_t position = 0;  // absolute position of the first token; further cached tokens follow one by one
  int32_t row_begin = 0;
  int32_t row_end = 0;
  int32_t first_own_row = -1;
};

// The entries of an item that lie in one segment, at least one, in pre-order of the tree. So every row meets
// its own path in ascending position; and since a row sees a position at most once, the scores of a segment
// fit into a buffer [rows of the item][kSegmentTokens] whatever the shape of the tree.
struct PlanSegment {
  int32_t index = 0;  // position / kSegmentTokens of all its tokens
  int32_t first_entry = 0;
  int32_t entries = 0;
  // What is seen of it: the union of the entries' rows, and of their tokens' columns (position %
  // kSegmentTokens). All 0 where no row sees any of it, which is so in kMasked only.
  int32_t row_begin = 0;
  int32_t row_end = 0;
  int32_t column_begin = 0;
  int32_t column_end = 0;
  // What it costs: tokens, and pairs of a token and a row between its entry's row_begin and row_end.
  int32_t tokens = 0;
  int64_t pairs = 0;
};

// A unit of work: a tile of consecutive rows (times the query heads of one KV head) over the segments
// [first_segment, first_segment + segments) of the plan, whose indices ascend. Executed once for each KV
// head.
//
// first_partial < 0: the segments are all that the rows see; the item merges them and writes the output
// rows. Otherwise it writes a partial (running maximum, sum, unnormalised output) for each (segment, row) it
// covers: partial `first_partial + (segment - first_segment) * rows + (row - first_row)`. A row that sees
// nothing in a segment leaves an empty partial (sum 0) that is in no merge list.
struct PlanItem {
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t first_segment = 0;  // of AttentionPlan::segments
  int32_t segments = 0;
  int32_t first_partial = -1;
};

// Bytes and operations of one step over all layers, from the plan alone: layers with a window read less.
struct PlanAccounting {
  int64_t kv_read_bytes = 0;           // K and V, once for each item that loads them
  int64_t kv_read_bytes_sequence = 0;  // what kSequence would read for the same batch
  int64_t partial_bytes = 0;           // fp32 partials, written once and (those of merge lists) read once
  int64_t mask_bytes = 0;              // kMasked: one bit per (row, token), as Medusa stores it
  int64_t flop = 0;                    // needed multiply-adds * 2 of QK and PV over visible pairs
};

// The attention of one step: the same for all layers and heads. Portable; a backend lowers it to its own
// form. Items lie costliest first: each free processor takes the next from the front, and they end evenly.
struct AttentionPlan {
  AttentionMode mode = AttentionMode::kFlatten;
  std::vector<PlanItem> items;
  std::vector<PlanSegment> segments;
  std::vector<PlanEntry> entries;
  int32_t partials =
      0;  // (row, segment) partials in the workspace; each has query_heads * (head_dim + 2) floats
  // Rows whose KV is cut: row merge_rows[i] merges partials merge_partials[merge_begin[i] .. merge_begin[i +
  // 1]), in ascending position.
  std::vector<int32_t> merge_rows;
  std::vector<int32_t> merge_begin;  // [merge_rows.size() + 1]
  std::vector<int32_t> merge_partials;
  PlanAccounting accounting;

  // Of an item; entries of its segments lie side by side.
  std::span<const PlanSegment> SegmentsOf(const PlanItem& item) const {
    return std::span(segments).subspan(static_cast<size_t>(item.first_segment),
                                       static_cast<size_t>(item.segments));
  }
  std::span<const PlanEntry> EntriesOf(const PlanItem& item) const {
    const std::span<const PlanSegment> own = SegmentsOf(item);
    const int32_t first = own.front().first_entry;
    return std::span(entries).subspan(
        static_cast<size_t>(first), static_cast<size_t>(own.back().first_entry + own.back().entries - first));
  }
};

// Pure host code, once a step for all layers. Precondition: ValidateBatch(batch).
AttentionPlan PlanAttention(const TreeBatch& batch, const AttentionShape& shape, const PlanOptions& options);

// Proves the plan against the batch: every visible (row, token) pair exactly once, no invisible pair, entries
// of a row in ascending position (kFlatten, kSequence), cuts on segment borders (same), segments that say
// what their entries hold, partials partitioned
// by the merge lists, every row written exactly once, tiles within max_tile_rows. For tests and debug builds:
// O(rows * tokens) time and memory.
Status CheckPlan(const TreeBatch& batch, const AttentionPlan& plan, const PlanOptions& options);

}  // namespace espalier
