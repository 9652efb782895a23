#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/plan/attention_plan.h"

// What a step's operations are made of, for one instruction set: plain functions on plain memory. The files
// in isa/ that fill a table are compiled with their own flags and share no inline code with the rest of the
// program, so that no instruction leaks to a machine that lacks it.
namespace espalier::cpu {

inline constexpr int32_t kLanes = 16;      // outputs of a panel: a 64-byte line of fp32
inline constexpr int32_t kChunkK = 128;    // k of a panel before the next panel's begins
inline constexpr int32_t kInt8Bias = 128;  // int8 weights lie as unsigned bytes, q + 128

// C[rows, n] (+)= A[rows, k] * W^T (+ bias). A call takes unit `block * row_parts + part` of the work: one
// block of panels for one of `row_parts` equal parts of the rows. Additions of an element go by ascending k,
// in one chain, whatever `rows` and `row_parts` are: a row alone and in a batch has the same bits.
//
// Weights lie as [block of panels][k / kChunkK][panel of 16 n][k within the chunk][16 n], for bf16 with pairs
// of k side by side: [k / 2][16 n][2]. k is padded to 32 and n to 16 by zeros.
// int8 weights: [k / 4][16 n][4], a scale for each n, and operands as quantize_row leaves them; a chunk is a
// group of operands.
struct GemmArgs {
  const void* a = nullptr;  // [rows, a_stride], operands; bf16 and int8 end in zeros up to a multiple of 32
  int64_t a_stride = 0;     // elements
  const void* weights = nullptr;
  float* c = nullptr;           // [rows, c_stride], writable up to 16 * panels
  int64_t c_stride = 0;         // elements
  const float* bias = nullptr;  // [16 * panels], or null
  bool accumulate = false;
  int32_t rows = 0;
  int32_t k = 0;
  int32_t panels = 0;
  int32_t panels_per_block = 1;
  int32_t row_parts = 1;
  int32_t threads = 1;  // that take the units in turns
  // int8 weights only.
  const float* weight_scales = nullptr;  // [16 * panels]
  const float* a_scales = nullptr;       // [rows, a_groups]
  const int32_t* a_starts = nullptr;     // [rows, a_groups]
  int64_t a_groups = 0;
};

// A row of fp32 operands becomes int8 (kernels/base/int8.h).
struct QuantizeArgs {
  const float* in = nullptr;  // [columns], then zeros up to the next multiple of 16
  int64_t columns = 0;
  int8_t* out = nullptr;      // [columns], then zeros up to the next multiple of 32
  float* scales = nullptr;    // of each group of kInt8Group columns
  int32_t* starts = nullptr;  // of each group: -kInt8Bias * sum of q, which undoes the weights' bias
};

// A KV pool's layer. One head of a block: K as [stored_tokens / 16][stored_dim][16 tokens], V as [stored_dim
// / 16][stored_tokens][16 dims]; bf16 has pairs side by side: K of dims, V of tokens. stored_tokens is the
// pool's block_tokens rounded up to 16, stored_dim the head_dim; what lies behind a head's own dims is zero
// from the beginning and never written.
struct KvLayer {
  void* data = nullptr;      // [kv_heads][blocks][2][stored_tokens * stored_dim]
  int64_t head_stride = 0;   // elements between heads
  int64_t block_stride = 0;  // elements between blocks: 2 * stored_tokens * stored_dim
  int32_t stored_tokens = kLanes;
  int32_t stored_dim = kLanes;
};

inline constexpr int32_t kNoCausalDiagonal = INT32_MAX;

// A KV block span: what a segment's rows see of a block, neighbouring entries of it made one.
struct KvBlockSpan {
  int32_t first_entry = 0;
  int32_t entries = 0;
  int32_t block = 0;
  int32_t column = 0;  // of KV slot 0 in the segment; meaningful for rows that see the whole block
  int32_t kv_slot_begin = 0;
  int32_t kv_slot_end = 0;
  int32_t row_begin = 0;
  int32_t row_end = 0;
  int32_t full_begin = 0;  // fully visible: rows that see the whole block, KV slot i at column + i
  int32_t full_end = 0;
  // Row r sees the span's KV slots up to r - diagonal_row; kNoCausalDiagonal where what rows see has another
  // form.
  int32_t diagonal_row = kNoCausalDiagonal;
  bool causal_diagonal = false;  // multiplied as if fully visible; what rows do not see is masked afterwards
};

// A PlanSegment with its spans.
struct KvSegment {
  int32_t position = 0;  // its first: a multiple of kSegmentTokens
  int32_t first_entry = 0;
  int32_t end_entry = 0;
  int32_t first_span = 0;  // of AttentionArgs::spans
  int32_t spans = 0;       // 0: no row sees anything of it
  int32_t row_begin = 0;
  int32_t row_end = 0;
  int32_t column_begin = 0;  // of scores in use, multiples of 16
  int32_t column_end = 0;
};

struct AttentionArgs {
  const KvSegment* segments = nullptr;  // PlanItem::first_segment counts these
  const KvBlockSpan* spans = nullptr;
  const PlanEntry* entries = nullptr;
  const int32_t* row_position = nullptr;
  const int32_t* row_subtree_end = nullptr;
  const float* qkv = nullptr;  // [rows, qkv_stride]: query heads first, rotated
  int64_t qkv_stride = 0;
  KvLayer kv;
  void* out = nullptr;  // [rows, out_stride] operands
  int64_t out_stride = 0;
  bool out_bf16 = false;
  float* partials = nullptr;  // [partial][query_heads][stored_dim + 2]: output, maximum, sum
  int32_t head_dim = 0;       // of a head in qkv and out
  int32_t stored_dim = 0;     // the same rounded up to 16: of a head everywhere else
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t window = 0;       // tokens that a row sees, its own among them; 0: all of its path
  float scale_log2 = 0.0F;  // log2(e) / sqrt(head_dim)
};

// A block of a run of blocks that are fully visible to the same rows.
struct RunBlock {
  const void* data = nullptr;
  int32_t column = 0;
};

inline constexpr int64_t kScoreStride = kSegmentTokens + kLanes;  // floats; not a power of two: cache sets

// Memory of one thread; packed row = (row - first row of the tile) * group + query head within the group.
struct AttentionScratch {
  void* queries = nullptr;       // [packed rows, stored_dim] operands
  float* scores = nullptr;       // [packed rows, kScoreStride]; then probabilities, as operands
  float* segment_out = nullptr;  // [packed rows, stored_dim]
  float* segment_max = nullptr;  // [packed rows], integers, base 2
  float* segment_sum = nullptr;
  float* out = nullptr;  // [packed rows, stored_dim]
  float* out_max = nullptr;
  float* out_sum = nullptr;
  float* tile = nullptr;    // [group, stored_tokens]
  RunBlock* run = nullptr;  // [spans of a segment, at least 1]
};

struct MergeArgs {
  const float* partials = nullptr;
  const int32_t* list = nullptr;  // partials of the row, in the order of merging
  int32_t count = 0;
  int32_t query_heads = 0;
  int32_t head_dim = 0;
  int32_t stored_dim = 0;  // of partials and scratch
  void* out = nullptr;     // [query_heads * head_dim] operands
  bool out_bf16 = false;
  float* scratch = nullptr;  // [stored_dim]
};

struct RotaryArgs {
  float* qkv = nullptr;           // one row
  const float* cosine = nullptr;  // [head_dim / 2] of the row's position; null: heads are not turned
  const float* sine = nullptr;
  const float* query_norm = nullptr;  // [head_dim], zeros up to the next multiple of 16; null: none
  const float* key_norm = nullptr;
  float epsilon = 0.0F;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  KvLayer kv;
  DType kv_dtype = DType::kBFloat16;
  int64_t block = 0;
  int32_t kv_slot = 0;
};

struct KernelTable {
  const char* isa = "";
  bool bf16_operands = false;  // bf16 weights and KV are multiplied by bf16 operands; otherwise by fp32
  void (*gemm_bf16)(const GemmArgs&, int32_t unit) = nullptr;
  void (*gemm_fp32)(const GemmArgs&, int32_t unit) = nullptr;
  void (*gemm_int8)(const GemmArgs&, int32_t unit) = nullptr;
  void (*quantize_row)(const QuantizeArgs&) = nullptr;
  void (*attention_bf16)(const AttentionArgs&, const PlanItem&, int32_t kv_head,
                         const AttentionScratch&) = nullptr;
  void (*attention_fp32)(const AttentionArgs&, const PlanItem&, int32_t kv_head,
                         const AttentionScratch&) = nullptr;
  void (*merge_partials)(const MergeArgs&) = nullptr;
  void (*rotary_and_store)(const RotaryArgs&) = nullptr;
  // Rows of `columns` floats, readable and writable up to the next multiple of 16; zeros behind the last
  // column stay zeros.
  void (*rms_norm)(const float* in, const float* weight, float epsilon, int64_t columns, void* out,
                   bool out_bf16) = nullptr;
  void (*swiglu)(const float* in, int64_t columns, void* out, bool out_bf16) = nullptr;
  // For measuring the machine. Multiply-adds: at least so many; how many they were comes back.
  uint32_t (*read_bytes)(const void* data, int64_t bytes) = nullptr;
  float (*bf16_multiply_adds)(int64_t min, int64_t* done) = nullptr;
  float (*int8_multiply_adds)(int64_t min, int64_t* done) = nullptr;
};

const KernelTable& PortableKernels();
const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();
const KernelTable& Avx512Bf16Kernels();
const KernelTable& AmxKernels();
const KernelTable& AmxEmulatedKernels();  // of the library espalier_amx_emulator

}  // namespace espalier::cpu
