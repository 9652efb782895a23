#pragma once

#include <type_traits>

#include "kernels/device/kernel_args.h"

// Tree attention of one item for the query heads of one tile. For each segment of 256 absolute positions a
// row forms, from zero, its scores, their maximum rounded up to an integer in base 2, probabilities, their
// sum and the GEMM with V; segments are merged in ascending order, where integer maxima make every
// rescaling exact. A token that a row does not see is passed over. So a row's bits do not depend on the
// tile, the cut or the batch. Online softmax: Milakov and Gimelshein 2018; merging: FlashAttention-2,
// section 3.1.
namespace espalier::device {

inline constexpr int32_t kRowGroup = 8;  // packed rows that a thread computes side by side

// Packed row = (row - first row of the item) * heads_per_tile + query head within the tile.
template <typename T>
struct Tile {
  const AttentionArgs& args;
  DescriptorItem item;
  const DescriptorRow* rows;       // of the step
  const DescriptorEntry* entries;  // of the step
  const T* kv;                     // this KV head's blocks
  int32_t kv_head;
  int32_t first_head;  // query head
  int32_t heads;       // of this tile; the last tile of a group may be lower
  AttentionLayout at;
  float* shared;

  ESPALIER_DEVICE int32_t packed() const { return item.rows * heads; }
  ESPALIER_DEVICE const T* BlockOf(int32_t block) const { return kv + block * args.layout.BlockElements(); }
  ESPALIER_DEVICE float& Score(int32_t packed_row, int32_t column) const {
    return shared[at.scores + packed_row * kScoreStride + column];
  }
};

// One token of an entry: its column in the segment and the packed rows that see it.
struct VisibleToken {
  int32_t column;
  int32_t begin;
  int32_t end;
};
template <typename T>
ESPALIER_DEVICE VisibleToken TokenOf(const Tile<T>& t, const DescriptorEntry& entry, int32_t token,
                                     int32_t segment) {
  int32_t position = entry.position + token;
  int32_t row_begin = entry.row_lo;
  int32_t row_end = entry.row_hi;
  if (entry.first_own_row >= 0) {
    const int32_t own = entry.first_own_row + token;
    position = t.rows[own].position;
    row_begin = MaxOf(row_begin, own - t.item.first_row);
    row_end = MinOf(row_end, t.rows[own].subtree_end - t.item.first_row);
  }
  return {position - segment * kSegmentTokens, row_begin * t.heads, row_end * t.heads};
}

// The first position that row `row` of the item sees.
template <typename T>
ESPALIER_DEVICE int32_t FirstSeen(const Tile<T>& t, int32_t row) {
  return t.args.window == 0 ? 0 : MaxOf(0, t.rows[t.item.first_row + row].position - t.args.window + 1);
}

// Query rows, zeros behind the last one up to a whole group and behind a head's own dims.
template <typename Block, typename T>
ESPALIER_DEVICE void LoadQueries(Block& block, const Tile<T>& t) {
  const int32_t dim = t.args.layout.stored_dim;
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < t.args.packed_rows * dim; i += kThreads) {
      const int32_t packed_row = i / dim;
      float query = 0.0F;
      if (packed_row < t.packed() && i % dim < t.args.head_dim) {
        const int64_t row = t.item.first_row + packed_row / t.heads;
        const int64_t head = t.first_head + packed_row % t.heads;
        query = static_cast<const float*>(
            t.args.qkv.data)[row * t.args.qkv.stride + head * t.args.head_dim + i % dim];
      }
      t.shared[t.at.queries + i] = query;
      t.shared[t.at.out + i] = 0.0F;
    }
    for (int32_t i = thread; i < t.args.packed_rows; i += kThreads) {
      t.shared[t.at.out_max + i] = 0.0F;
      t.shared[t.at.out_sum + i] = 0.0F;
    }
  });
}

// Dot products of one key with the packed rows [first, first + kRowGroup).
template <typename T>
ESPALIER_DEVICE void ScoreGroup(const Tile<T>& t, const T* keys, int32_t slot, int32_t first,
                                float (&scores)[kRowGroup]) {
  const int32_t dim = t.args.layout.stored_dim;
  const float* queries = t.shared + t.at.queries + first * dim;
  for (int32_t j = 0; j < kRowGroup; ++j) scores[j] = 0.0F;
  for (int32_t chunk = 0; chunk * kKeyChunk < dim; ++chunk) {
    const auto key = LoadPack<kKeyChunk>(keys + t.args.layout.KeyChunkAt(chunk, slot));
    float values[kKeyChunk];
    for (int32_t i = 0; i < kKeyChunk; ++i) values[i] = Load(&key.values[i]);
    for (int32_t j = 0; j < kRowGroup; ++j) {
      const float* query = queries + j * dim + chunk * kKeyChunk;
      for (int32_t i = 0; i < kKeyChunk; ++i) scores[j] = MulAdd(query[i], values[i], scores[j]);
    }
  }
}

// A thread for each token of the run's entries.
template <typename Block, typename T>
ESPALIER_DEVICE void ScoreRun(Block& block, const Tile<T>& t, const DescriptorRun& run) {
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < t.packed() * kSegmentTokens; i += kThreads) {
      if (i % kSegmentTokens < run.columns) t.Score(i / kSegmentTokens, i % kSegmentTokens) = -INFINITY;
    }
  });
  const int32_t block_tokens = t.args.layout.block_tokens;
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < run.entries * block_tokens; i += kThreads) {
      const DescriptorEntry entry = t.entries[run.first_entry + i / block_tokens];
      const int32_t token = i % block_tokens;
      if (token >= entry.tokens) continue;
      const VisibleToken seen = TokenOf(t, entry, token, run.segment);
      const T* keys = t.BlockOf(entry.block);
      for (int32_t first = seen.begin / kRowGroup * kRowGroup; first < seen.end; first += kRowGroup) {
        float scores[kRowGroup];
        ScoreGroup(t, keys, entry.first_kv_slot + token, first, scores);
        for (int32_t j = 0; j < kRowGroup; ++j) {
          if (first + j < seen.begin || first + j >= seen.end) continue;
          if (run.segment * kSegmentTokens + seen.column < FirstSeen(t, (first + j) / t.heads)) continue;
          t.Score(first + j, seen.column) = scores[j];
        }
      }
    }
  });
}

// Scores become probabilities in place. kSoftmaxParts threads share a row; part p has the columns p,
// p + kSoftmaxParts, ...
template <typename Block, typename T>
ESPALIER_DEVICE void SoftmaxRun(Block& block, const Tile<T>& t, const DescriptorRun& run) {
  float* part_max = t.shared + t.at.part_max;
  float* part_sum = t.shared + t.at.part_sum;
  const int32_t units = t.packed() * kSoftmaxParts;
  block.ForThreads([&](int32_t thread) {
    for (int32_t unit = thread; unit < units; unit += kThreads) {
      float max = -INFINITY;
      for (int32_t c = unit % kSoftmaxParts; c < run.columns; c += kSoftmaxParts) {
        max = fmaxf(max, t.Score(unit / kSoftmaxParts, c));
      }
      part_max[unit] = max;
    }
  });
  block.ForThreads([&](int32_t thread) {
    for (int32_t unit = thread; unit < units; unit += kThreads) {
      const int32_t row = unit / kSoftmaxParts;
      float max = -INFINITY;
      for (int32_t p = 0; p < kSoftmaxParts; ++p) max = fmaxf(max, part_max[row * kSoftmaxParts + p]);
      const bool seen = max > -INFINITY;
      const float rounded = seen ? ceilf(max * t.args.scale_log2) : 0.0F;
      float sum = 0.0F;
      for (int32_t c = unit % kSoftmaxParts; c < run.columns; c += kSoftmaxParts) {
        float& score = t.Score(row, c);
        if (seen) {
          score = exp2f(MulAdd(score, t.args.scale_log2, -rounded));
          sum += score;
        } else if (score == -INFINITY) {
          score = 0.0F;  // what lies before a window is multiplied with V
        }
      }
      part_sum[unit] = sum;
      if (unit % kSoftmaxParts == 0) t.shared[t.at.segment_max + row] = rounded;
    }
  });
  block.ForThreads([&](int32_t thread) {
    for (int32_t row = thread; row < t.packed(); row += kThreads) {
      float sum = 0.0F;
      for (int32_t p = 0; p < kSoftmaxParts; ++p) sum += part_sum[row * kSoftmaxParts + p];
      t.shared[t.at.segment_sum + row] = sum;
    }
  });
}

// 2^exponent for integers <= 0; 0 below the normal numbers.
ESPALIER_DEVICE float PowerOfTwo(float exponent) {
  return exponent < -126.0F ? 0.0F : ldexpf(1.0F, static_cast<int32_t>(exponent));
}

// How a row so far (maximum, sum) and the partial of a later segment are weighted when they are added.
struct MergeScales {
  float maximum;
  float before;
  float next;
};
ESPALIER_DEVICE MergeScales ScalesOf(float before_max, float before_sum, float next_max, float next_sum) {
  if (next_sum == 0.0F) return {before_max, 1.0F, 0.0F};
  if (before_sum == 0.0F) return {next_max, 0.0F, 1.0F};
  const float maximum = fmaxf(before_max, next_max);
  return {maximum, PowerOfTwo(before_max - maximum), PowerOfTwo(next_max - maximum)};
}
ESPALIER_DEVICE float Merged(const MergeScales& scales, float before, float next) {
  return MulAdd(before, scales.before, next * scales.next);
}

template <typename T>
ESPALIER_DEVICE float* PartialOf(const Tile<T>& t, const DescriptorRun& run, int32_t packed_row) {
  const int64_t partial = run.first_partial + packed_row / t.heads;
  return t.args.partials + (partial * t.args.query_heads + t.first_head + packed_row % t.heads) *
                               (t.args.layout.stored_dim + 2);
}

// GEMM of the probabilities of packed rows [first, first + kRowGroup) with dims [dim, dim + 2) of V,
// entries in order: for each row by ascending position.
template <typename T>
ESPALIER_DEVICE void ValueGroup(const Tile<T>& t, const DescriptorRun& run, int32_t first, int32_t dim,
                                float (&sums)[kRowGroup][2]) {
  for (int32_t j = 0; j < kRowGroup; ++j) sums[j][0] = sums[j][1] = 0.0F;
  for (int32_t e = run.first_entry; e < run.first_entry + run.entries; ++e) {
    const DescriptorEntry entry = t.entries[e];
    if (entry.row_hi * t.heads <= first || entry.row_lo * t.heads >= first + kRowGroup) continue;
    const T* values = t.BlockOf(entry.block) + t.args.layout.ValueAt(entry.first_kv_slot, dim);
    for (int32_t token = 0; token < entry.tokens; ++token, values += t.args.layout.stored_dim) {
      const VisibleToken seen = TokenOf(t, entry, token, run.segment);
      if (seen.end <= first || seen.begin >= first + kRowGroup) continue;
      const auto value = LoadPack<2>(values);
      const float value0 = Load(&value.values[0]);
      const float value1 = Load(&value.values[1]);
      for (int32_t j = 0; j < kRowGroup; ++j) {
        if (first + j < seen.begin || first + j >= seen.end) continue;
        const float probability = t.Score(first + j, seen.column);
        sums[j][0] = MulAdd(probability, value0, sums[j][0]);
        sums[j][1] = MulAdd(probability, value1, sums[j][1]);
      }
    }
  }
}

// Adds the segment to the rows' output, or writes it as partials.
template <typename Block, typename T>
ESPALIER_DEVICE void ValueRun(Block& block, const Tile<T>& t, const DescriptorRun& run) {
  const float* segment_max = t.shared + t.at.segment_max;
  const float* segment_sum = t.shared + t.at.segment_sum;
  float* out_max = t.shared + t.at.out_max;
  float* out_sum = t.shared + t.at.out_sum;
  const int32_t pairs = t.args.layout.stored_dim / 2;
  const int32_t groups = (t.packed() + kRowGroup - 1) / kRowGroup;
  const bool cut = t.item.first_partial >= 0;
  const int32_t row_begin = run.row_lo * t.heads;
  const int32_t row_end = run.row_hi * t.heads;
  block.ForThreads([&](int32_t thread) {
    for (int32_t unit = thread; unit < groups * pairs; unit += kThreads) {
      const int32_t first = unit / pairs * kRowGroup;
      const int32_t dim = unit % pairs * 2;
      float sums[kRowGroup][2];
      ValueGroup(t, run, first, dim, sums);
      for (int32_t j = 0; j < kRowGroup; ++j) {
        const int32_t row = first + j;
        if (row < row_begin || row >= row_end) continue;
        float* to =
            cut ? PartialOf(t, run, row) + dim : t.shared + t.at.out + row * t.args.layout.stored_dim + dim;
        const MergeScales scales =
            cut ? MergeScales{0.0F, 0.0F, 1.0F}
                : ScalesOf(out_max[row], out_sum[row], segment_max[row], segment_sum[row]);
        for (int32_t i = 0; i < 2; ++i) to[i] = cut ? sums[j][i] : Merged(scales, to[i], sums[j][i]);
      }
    }
  });
  block.ForThreads([&](int32_t thread) {
    for (int32_t row = row_begin + thread; row < row_end; row += kThreads) {
      if (cut) {
        float* partial = PartialOf(t, run, row);
        partial[t.args.layout.stored_dim] = segment_max[row];
        partial[t.args.layout.stored_dim + 1] = segment_sum[row];
        continue;
      }
      const MergeScales scales = ScalesOf(out_max[row], out_sum[row], segment_max[row], segment_sum[row]);
      out_sum[row] = Merged(scales, out_sum[row], segment_sum[row]);
      out_max[row] = scales.maximum;
    }
  });
}

// A segment before the windows of all rows: nothing of it is read, and its partials are zeros.
template <typename Block, typename T>
ESPALIER_DEVICE void PassRun(Block& block, const Tile<T>& t, const DescriptorRun& run) {
  if (t.item.first_partial < 0) return;
  const int32_t floats = t.args.layout.stored_dim + 2;
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < t.packed() * floats; i += kThreads) {
      PartialOf(t, run, i / floats)[i % floats] = 0.0F;
    }
  });
}

template <typename T>
ESPALIER_DEVICE T* OutputOf(const RowsView& out, int64_t row, int32_t head, int32_t head_dim) {
  return static_cast<T*>(out.data) + row * out.stride + int64_t{head} * head_dim;
}
ESPALIER_DEVICE float InverseOf(float sum) { return sum > 0.0F ? 1.0F / sum : 0.0F; }

template <typename Block, typename T>
ESPALIER_DEVICE void WriteOutput(Block& block, const Tile<T>& t) {
  const int32_t dim = t.args.head_dim;
  WithOperandType(t.args.out.bf16, [&](auto* type) {
    using Out = std::remove_pointer_t<decltype(type)>;
    block.ForThreads([&](int32_t thread) {
      for (int32_t i = thread; i < t.packed() * dim; i += kThreads) {
        const int32_t row = i / dim;
        Out* to =
            OutputOf<Out>(t.args.out, t.item.first_row + row / t.heads, t.first_head + row % t.heads, dim);
        const float value = t.shared[t.at.out + row * t.args.layout.stored_dim + i % dim];
        Store(value * InverseOf(t.shared[t.at.out_sum + row]), to + i % dim);
      }
    });
  });
}

template <typename T, typename Block>
ESPALIER_DEVICE void AttendItem(Block& block, const AttentionArgs& args) {
  const DescriptorHeader& header = HeaderOf(args.descriptor);
  const int32_t tiles = args.layout.kv_heads * args.tiles_per_group;
  const auto tile = static_cast<int32_t>(block.index() % tiles);
  const int32_t kv_head = tile / args.tiles_per_group;
  const int32_t group = args.query_heads / args.layout.kv_heads;
  const int32_t head_in_group = tile % args.tiles_per_group * args.heads_per_tile;
  const Tile<T> t = {args,
                     ArrayOf(args.descriptor, header.item)[block.index() / tiles],
                     ArrayOf(args.descriptor, header.row),
                     ArrayOf(args.descriptor, header.entry),
                     static_cast<const T*>(args.kv) +
                         args.layout.BlockAt(int64_t{args.layer} * args.layout.kv_heads + kv_head, 0),
                     kv_head,
                     kv_head * group + head_in_group,
                     MinOf(args.heads_per_tile, group - head_in_group),
                     AttentionLayout(args.packed_rows, args.layout.stored_dim),
                     block.template Shared<float>()};
  LoadQueries(block, t);
  const DescriptorRun* runs = ArrayOf(args.descriptor, header.run);
  int32_t first_seen = INT32_MAX;
  for (int32_t row = 0; row < t.item.rows; ++row) first_seen = MinOf(first_seen, FirstSeen(t, row));
  for (int32_t r = t.item.first_run; r < t.item.first_run + t.item.runs; ++r) {
    const DescriptorRun run = runs[r];
    if (run.entries == 0) continue;
    if ((run.segment + 1) * kSegmentTokens <= first_seen) {
      PassRun(block, t, run);
      continue;
    }
    ScoreRun(block, t, run);
    SoftmaxRun(block, t, run);
    ValueRun(block, t, run);
  }
  if (t.item.first_partial < 0) WriteOutput(block, t);
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const AttentionArgs& args) {
  if (args.bf16_kv) {
    AttendItem<bf16_t>(block, args);
  } else {
    AttendItem<float>(block, args);
  }
}

// Merges the partials of a row whose KV was cut, with the arithmetic of ValueRun.
template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const MergeArgs& args) {
  const DescriptorHeader& header = HeaderOf(args.descriptor);
  const DescriptorMerge merge = ArrayOf(args.descriptor, header.merge)[block.index()];
  const int32_t* list = ArrayOf(args.descriptor, header.merge_partial) + merge.first;
  const int64_t stride = args.stored_dim + 2;
  WithOperandType(args.out.bf16, [&](auto* type) {
    using Out = std::remove_pointer_t<decltype(type)>;
    block.ForThreads([&](int32_t thread) {
      for (int32_t i = thread; i < args.query_heads * args.head_dim; i += kThreads) {
        const int32_t head = i / args.head_dim;
        const int32_t dim = i % args.head_dim;
        float maximum = 0.0F;
        float sum = 0.0F;
        float value = 0.0F;
        for (int32_t p = 0; p < merge.count; ++p) {
          const float* partial = args.partials + (int64_t{list[p]} * args.query_heads + head) * stride;
          const float next_sum = partial[args.stored_dim + 1];
          const MergeScales scales = ScalesOf(maximum, sum, partial[args.stored_dim], next_sum);
          value = Merged(scales, value, partial[dim]);
          sum = Merged(scales, sum, next_sum);
          maximum = scales.maximum;
        }
        Store(value * InverseOf(sum), OutputOf<Out>(args.out, merge.row, head, args.head_dim) + dim);
      }
    });
  });
}

}  // namespace espalier::device
