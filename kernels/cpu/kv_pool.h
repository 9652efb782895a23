#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/step_input.h"

namespace espalier::cpu {

// A paged KV pool, [layers][kv_heads][blocks] of blocks as KvLayer describes them: a head's blocks of
// neighbouring ids are one stream.
class KvPool {
 public:
  // Errors: a shape the kernels cannot run, no memory (naming the flag kv-cache-bytes).
  static Result<KvPool> Create(const AttentionShape& shape, int32_t blocks, int32_t block_tokens);

  const AttentionShape& shape() const { return shape_; }
  int32_t blocks() const { return blocks_; }
  int32_t block_tokens() const { return block_tokens_; }
  int32_t stored_dim() const { return stored_dim_; }  // of a head: head_dim rounded up to 16
  KvLayer Layer(int32_t layer) const;

  void ZeroBlocks(std::span<const int32_t> blocks, ThreadPool* pool);
  void CopyBlocks(std::span<const BlockCopy> copies, ThreadPool* pool);

 private:
  int64_t block_elements() const { return int64_t{2} * stored_tokens_ * stored_dim_; }
  std::byte* Block(int64_t layer_head, int32_t block) const;
  template <typename T, int32_t kPair>
  void CopyTokens(const void* from, void* to, int32_t tokens) const;

  Buffer buffer_;
  AttentionShape shape_;
  int32_t blocks_ = 0;
  int32_t block_tokens_ = 0;
  int32_t stored_tokens_ = 0;
  int32_t stored_dim_ = 0;
};

}  // namespace espalier::cpu
