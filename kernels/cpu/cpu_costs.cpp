#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/cpu/cpu_backend_impl.h"

namespace espalier::cpu {

namespace {

constexpr int32_t kLongTokens = 256;  // of a measured path, one segment
constexpr int32_t kRows = 16;         // that see a path, where it is not one
constexpr int32_t kRuns = 12;         // of each measurement; the quickest counts
constexpr int64_t kUnits = 64;        // items times KV heads of a run, for each processor
// KV that is read in turn, so that what a run reads has left the caches since it was read last.
constexpr int64_t kReadBytes = int64_t{64} << 20;

// `trees` paths of `tokens` tokens, blocks from `first_block` on, each seen by `rows` rows. Nothing is
// written: rows have no tokens of their own.
TreeBatch Paths(int32_t trees, int32_t tokens, int32_t rows, int32_t first_block, int32_t block_tokens) {
  TreeBatch batch;
  batch.block_tokens = block_tokens;
  const int32_t blocks = tokens / block_tokens;
  for (int32_t tree = 0; tree < trees; ++tree) {
    BatchNode node;
    node.cached_tokens = tokens;
    node.first_block = tree * blocks;
    node.first_row = tree * rows;
    node.subtree_end_row = node.first_row + rows;
    batch.nodes.push_back(node);
    for (int32_t block = 0; block < blocks; ++block)
      batch.blocks.push_back(first_block + tree * blocks + block);
    for (int32_t row = 0; row < rows; ++row) {
      batch.row_node.push_back(tree);
      batch.row_position.push_back(tokens - 1);
      batch.row_subtree_end.push_back(node.first_row + row + 1);
    }
  }
  return batch;
}

// An item for each tree of `batch`; with partials, or writing its rows.
AttentionPlan ItemsOf(const TreeBatch& batch, bool partials) {
  AttentionPlan plan;
  plan.merge_begin.push_back(0);
  for (const BatchNode& node : batch.nodes) {
    PlanItem item;
    item.first_row = node.first_row;
    item.rows = node.subtree_end_row - node.first_row;
    item.first_segment = static_cast<int32_t>(plan.segments.size());
    item.segments = 1;
    PlanSegment segment;  // kLongTokens are no more
    segment.first_entry = static_cast<int32_t>(plan.entries.size());
    segment.row_begin = node.first_row;
    segment.row_end = node.subtree_end_row;
    segment.column_end = node.cached_tokens;
    for (int32_t token = 0; token < node.cached_tokens; token += batch.block_tokens) {
      PlanEntry entry;
      entry.block = batch.blocks[static_cast<size_t>(node.first_block + token / batch.block_tokens)];
      entry.tokens = static_cast<int16_t>(std::min(batch.block_tokens, node.cached_tokens - token));
      entry.position = token;
      entry.row_begin = node.first_row;
      entry.row_end = node.subtree_end_row;
      plan.entries.push_back(entry);
      ++segment.entries;
    }
    plan.segments.push_back(segment);
    if (partials) {
      item.first_partial = plan.partials;
      for (int32_t row = item.first_row; row < item.first_row + item.rows; ++row) {
        plan.merge_rows.push_back(row);
        plan.merge_partials.push_back(plan.partials++);
        plan.merge_begin.push_back(static_cast<int32_t>(plan.merge_partials.size()));
      }
    }
    plan.items.push_back(item);
  }
  return plan;
}

// Clamped to what is plausible for any machine.
int64_t Believable(double cost, int64_t min, int64_t max) {
  if (!std::isfinite(cost)) return min;
  return std::lround(std::clamp(cost, static_cast<double>(min), static_cast<double>(max)));
}

}  // namespace

PlanCosts CpuBackend::MeasureCosts(const AttentionShape& shape, int32_t block_tokens) {
  const int32_t group = shape.group();
  const int64_t tree_bytes = shape.KvBytesPerTokenLayer() * kLongTokens;
  const auto rows = static_cast<int32_t>(std::min<int64_t>({kRows, info_.plan.max_tile_rows, max_rows_}));
  const int64_t wanted = (kUnits * pool_->threads() + shape.kv_heads - 1) / shape.kv_heads;
  const auto trees = static_cast<int32_t>(std::min(wanted, max_rows_ / rows));
  if (rows < 2 || block_tokens >= kLongTokens) return {};
  const int32_t run_blocks = trees * (kLongTokens / block_tokens);
  const auto blocks = static_cast<int32_t>((kReadBytes / tree_bytes + 1) * (kLongTokens / block_tokens));
  AttentionShape one = shape;
  one.layers = 1;
  Result<KvPool> pool = KvPool::Create(one, std::max(blocks, 2 * run_blocks), block_tokens);
  if (!pool) return {};
  std::vector<int32_t> all(static_cast<size_t>(pool->blocks()));
  std::iota(all.begin(), all.end(), 0);
  pool->ZeroBlocks(all,
                   pool_.get());  // pages that were never written share one page, which is read from a cache

  const size_t activations = activations_.size();
  const int64_t heads = shape.query_heads + 2 * shape.kv_heads;
  const auto qkv = AddActivation(ActivationKind::kResidual, heads * shape.head_dim);
  const auto out = AddActivation(ActivationKind::kOperand, int64_t{shape.query_heads} * shape.head_dim);
  if (!qkv || !out) {
    activations_.resize(activations);
    return {};
  }
  kv_pools_.push_back(std::move(*pool));
  const auto kv = static_cast<KvId>(kv_pools_.size() - 1);

  // Microseconds of a processor for one item and KV head, the least so far in `min`.
  int32_t next_block = 0;
  const auto time = [&](int32_t tokens, int32_t tree_rows, bool partials, double* min) {
    if (next_block + run_blocks > static_cast<int32_t>(all.size())) next_block = 0;
    auto step = std::make_shared<StepInput>();
    step->batch = Paths(trees, tokens, tree_rows, next_block, block_tokens);
    step->plan = ItemsOf(step->batch, partials);
    step->tokens.resize(static_cast<size_t>(step->batch.rows()));
    next_block += static_cast<int32_t>(step->batch.blocks.size());
    BeginStep(step);
    WriteActivation(*qkv,
                    std::vector<float>(static_cast<size_t>(step->batch.rows() * heads * shape.head_dim)));
    TreeAttention(kv, 0, {}, *qkv, *out);
    const double us = std::chrono::duration<double, std::micro>(attention_time_).count();
    EndStep();
    (void)Wait();
    const int32_t units = trees * shape.kv_heads;
    *min = std::min(*min, us * std::min(pool_->threads(), units) / units);
  };
  constexpr double kNone = std::numeric_limits<double>::infinity();
  double low = kNone, high = kNone, brief = kNone, cut = kNone;
  for (int32_t run = 0; run < kRuns; ++run) {
    time(kLongTokens, 1, false, &low);
    time(kLongTokens, rows, false, &high);
    time(block_tokens, 1, false, &brief);
    time(kLongTokens, rows, true, &cut);
  }
  kv_pools_.pop_back();
  activations_.resize(activations);

  const double unit = (high - low) / (double{kLongTokens} * (rows - 1) * group);
  if (!(unit > 0.0)) return {};
  PlanCosts costs;
  const double token = (low - brief) / unit / (kLongTokens - block_tokens) - group;
  costs.token = Believable(token, 4, 256);
  costs.item = Believable(brief / unit - block_tokens * (token + group), 64, 1 << 16);
  costs.partial = Believable((cut - high) / unit / (rows * group), 8, 256);
  return costs;
}

}  // namespace espalier::cpu
