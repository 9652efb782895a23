#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device/kv_layout.h"
#include "kernels/device/step_descriptor.h"

// Arguments of the kernels: plain data with pointers to device memory, passed by value. Each says how it is
// launched. Rows of activations are `stride` elements apart.
namespace espalier::device {

// Blocks of kThreads threads; bytes of shared memory for each.
struct LaunchShape {
  int64_t blocks = 0;  // 0: nothing is launched. Below 2^31.
  int64_t shared_bytes = 0;
};

// A matrix of activations: fp32, or bf16 where it is the operand of a GEMM.
struct RowsView {
  void* data = nullptr;
  int64_t stride = 0;
  int32_t rows = 0;
  int32_t cols = 0;
  bool bf16 = false;
};

// out[row] = table[token of row]. `fault` is set to kBadToken where a token is not in the table.
inline constexpr int32_t kBadToken = 1;
struct EmbedArgs {
  const std::byte* descriptor = nullptr;
  const int32_t* last_token = nullptr;  // [sequence slots]
  const void* table = nullptr;          // [vocab, table_stride]
  int64_t table_stride = 0;
  int32_t vocab = 0;
  bool bf16_table = false;
  RowsView out;  // fp32
  int32_t* fault = nullptr;
  LaunchShape Shape() const { return {out.rows, 0}; }
};

struct RmsNormArgs {
  RowsView in;  // fp32
  const float* weight = nullptr;
  float epsilon = 0.0F;
  RowsView out;
  LaunchShape Shape() const { return {in.rows, kThreads * static_cast<int64_t>(sizeof(float))}; }
};

// out[row] += bias
struct AddBiasArgs {
  const float* bias = nullptr;
  RowsView out;  // fp32
  LaunchShape Shape() const { return {out.rows, 0}; }
};

struct SwiGluArgs {
  RowsView in;  // fp32, [rows, 2 * out.cols]
  RowsView out;
  LaunchShape Shape() const { return {in.rows, 0}; }
};

// out[i] = in[logit_row[i]]; both of one type.
struct GatherArgs {
  const std::byte* descriptor = nullptr;
  RowsView in;
  RowsView out;
  LaunchShape Shape() const { return {out.rows, 0}; }
};

struct RotaryArgs {
  const std::byte* descriptor = nullptr;
  RowsView qkv;                       // fp32
  const float* angles = nullptr;      // [positions][2][head_dim / 2]: cosines, then sines; null: no rotation
  const float* query_norm = nullptr;  // [head_dim]; null: none
  const float* key_norm = nullptr;
  float epsilon = 0.0F;
  void* kv = nullptr;
  KvLayout layout;
  int32_t layer = 0;
  int32_t query_heads = 0;
  int32_t head_dim = 0;
  bool bf16_kv = false;
  constexpr bool HasNorms() const { return query_norm != nullptr || key_norm != nullptr; }
  constexpr int32_t TurnedHeads() const { return query_heads + layout.kv_heads; }
  // Threads that share the sum of a head's squares: shared memory holds the sums of thousands of heads.
  constexpr int32_t NormParts() const { return TurnedHeads() <= 1024 ? 8 : 1; }
  LaunchShape Shape() const {
    const int64_t sums = HasNorms() ? int64_t{TurnedHeads()} * NormParts() : 0;
    return {qkv.rows, sums * static_cast<int64_t>(sizeof(float))};
  }
};

// Blocks of a pool that are zeroed; a block of threads for each layer, head and KV block.
struct ZeroBlocksArgs {
  const std::byte* descriptor = nullptr;
  void* kv = nullptr;
  KvLayout layout;
  int32_t count = 0;
  bool bf16_kv = false;
  LaunchShape Shape() const { return {int64_t{count} * layout.layers * layout.kv_heads, 0}; }
};

// The first tokens of blocks, copied.
struct CopyBlocksArgs {
  const std::byte* descriptor = nullptr;
  void* kv = nullptr;
  KvLayout layout;
  int32_t count = 0;
  bool bf16_kv = false;
  LaunchShape Shape() const { return {int64_t{count} * layout.layers * layout.kv_heads, 0}; }
};

// Query heads of a KV head that one block of threads computes: all of a small group, else an even part.
inline constexpr int32_t kMaxHeadsPerTile = 16;

struct AttentionArgs {
  const std::byte* descriptor = nullptr;
  RowsView qkv;  // fp32, rotated
  const void* kv = nullptr;
  KvLayout layout;
  int32_t layer = 0;
  int32_t query_heads = 0;
  int32_t head_dim = 0;        // in qkv and out; everywhere else a head has layout.stored_dim
  int32_t heads_per_tile = 1;  // at most kMaxHeadsPerTile
  int32_t tiles_per_group = 1;
  int32_t packed_rows = 8;  // capacity of a tile: rows times heads_per_tile; a multiple of 8
  int32_t items = 0;
  int32_t window = 0;         // tokens that a row sees, its own among them; 0: all of its path
  float scale_log2 = 0.0F;    // log2(e) / sqrt(head_dim)
  float* partials = nullptr;  // [partial][query_heads][stored_dim + 2]: output, maximum, sum
  bool bf16_kv = false;
  RowsView out;
  inline LaunchShape Shape() const;
};

struct MergeArgs {
  const std::byte* descriptor = nullptr;
  const float* partials = nullptr;
  int32_t query_heads = 0;
  int32_t head_dim = 0;    // in out
  int32_t stored_dim = 0;  // in partials
  int32_t count = 0;
  RowsView out;
  LaunchShape Shape() const { return {count, 0}; }
};

// What the softmax over a row of logits needs; the log of the sum is taken on the host.
struct RowSummary {
  double sum = 0.0;  // of exp(logit - max); NaN where a logit is not finite
  float max = 0.0F;
  int32_t argmax = 0;  // lowest id
};

// Logits of the step's logit rows [first_row, first_row + rows).
struct LogitsView {
  const float* data = nullptr;
  int64_t stride = 0;
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t vocab = 0;
  ESPALIER_DEVICE const float* Row(int32_t logit_row) const {
    return data + (logit_row - first_row) * stride;
  }
};

struct SummarizeArgs {
  LogitsView logits;
  RowSummary* summaries = nullptr;  // [logit rows of the step]
  LaunchShape Shape() const {
    return {logits.rows, kThreads * static_cast<int64_t>(sizeof(double) + sizeof(float) + sizeof(int32_t))};
  }
};

struct SampledToken {
  int32_t token_id = 0;
  float logit = 0.0F;  // the model's own, before bias and penalties
};

// Blocks of threads that sample at the same time; each has vocab floats of scratch.
inline constexpr int64_t kSampleBlocks = 128;

// Samples the tokens of requests [first, first + count) of the descriptor; token 0 where a logit of the row
// is not finite.
struct SampleArgs {
  const std::byte* descriptor = nullptr;
  LogitsView logits;
  const RowSummary* summaries = nullptr;  // [logit rows of the step]
  int32_t first = 0;
  int32_t count = 0;
  float* scratch = nullptr;         // [kSampleBlocks][vocab]
  int32_t* last_token = nullptr;    // [sequence slots]
  SampledToken* sampled = nullptr;  // [samples]
  inline LaunchShape Shape() const;
};

// sampled[i].logit of the tokens that scores [first, first + count) name.
struct ScoreArgs {
  const std::byte* descriptor = nullptr;
  LogitsView logits;
  int32_t first = 0;
  int32_t count = 0;
  float* scored = nullptr;  // [scores]
  LaunchShape Shape() const { return {(int64_t{count} + kThreads - 1) / kThreads, 0}; }
};

// The most likely tokens of each row, most likely first, ties to the lower id; token -1 behind the last.
struct TopTokensArgs {
  const std::byte* descriptor = nullptr;
  LogitsView logits;
  int32_t stride = 0;           // of `top`
  SampledToken* top = nullptr;  // [logit rows of the step][stride]
  LaunchShape Shape() const {
    return {stride == 0 ? 0 : logits.rows, kThreads * static_cast<int64_t>(sizeof(float) + sizeof(int32_t))};
  }
};

// c[rows, n] = (accumulate ? c : 0) + a[rows, k] * w[n, k]^T, summed in fp32 (fp32 operands are not rounded).
// n and k are multiples of 16, and so are all strides; `rows` is a size that RowBucket gives.
struct GemmArgs {
  const void* a = nullptr;
  int64_t a_stride = 0;
  const void* w = nullptr;
  float* c = nullptr;
  int64_t c_stride = 0;
  int32_t rows = 0;
  int32_t n = 0;
  int32_t k = 0;
  bool bf16 = false;
  bool accumulate = false;
};

}  // namespace espalier::device

#include "kernels/device/shared_layouts.h"
