#include "kernels/cpu/kv_pool.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/backend_parts.h"

namespace espalier::cpu {

Result<KvPool> KvPool::Create(const AttentionShape& shape, int32_t blocks, int32_t block_tokens) {
  if (Status status = CheckKvPool(shape, blocks, block_tokens); !status.ok()) return status.error();
  if (Status status = CheckKvTypes(shape, std::numeric_limits<int32_t>::max(), "cpu"); !status.ok())
    return status.error();
  KvPool pool;
  pool.shape_ = shape;
  pool.blocks_ = blocks;
  pool.block_tokens_ = block_tokens;
  pool.stored_tokens_ = static_cast<int32_t>(RoundUp(block_tokens, kLanes));
  pool.stored_dim_ = static_cast<int32_t>(RoundUp(shape.head_dim, kLanes));
  const Result<int64_t> bytes = KvPoolBytes(shape, blocks, pool.block_elements());
  if (!bytes) return bytes.error();
  Result<Buffer> buffer = Buffer::Allocate(*bytes, "kv-cache-bytes");
  if (!buffer) return buffer.error();
  pool.buffer_ = std::move(*buffer);
  return pool;
}

KvLayer KvPool::Layer(int32_t layer) const {
  ESPALIER_CHECK(layer >= 0 && layer < shape_.layers);
  KvLayer result;
  result.data = Block(int64_t{layer} * shape_.kv_heads, 0);
  result.block_stride = block_elements();
  result.head_stride = blocks_ * block_elements();
  result.stored_tokens = stored_tokens_;
  result.stored_dim = stored_dim_;
  return result;
}

std::byte* KvPool::Block(int64_t layer_head, int32_t block) const {
  const int64_t elements = (layer_head * blocks_ + block) * block_elements();
  return buffer_.as<std::byte>() + elements * static_cast<int64_t>(SizeOf(shape_.kv_dtype));
}

void KvPool::ZeroBlocks(std::span<const int32_t> blocks, ThreadPool* pool) {
  if (blocks.empty()) return;
  const auto bytes = static_cast<size_t>(block_elements()) * SizeOf(shape_.kv_dtype);
  pool->ParallelFor(int64_t{shape_.layers} * shape_.kv_heads, 16, [&](int64_t layer_head, int32_t) {
    for (const int32_t block : blocks) {
      ESPALIER_CHECK(block >= 0 && block < blocks_);
      std::memset(Block(layer_head, block), 0, bytes);
    }
  });
}

// Tokens lie in lanes (K) and in pairs (V): what is copied is the first lanes of each line, and the first
// pairs.
template <typename T, int32_t kPair>
void KvPool::CopyTokens(const void* from, void* to, int32_t tokens) const {
  const T* source = static_cast<const T*>(from);
  T* target = static_cast<T*>(to);
  const int64_t group_elements = int64_t{kLanes} * stored_dim_;
  for (int32_t token = 0; token < tokens; token += kLanes) {
    const auto lanes = static_cast<size_t>(std::min(kLanes, tokens - token)) * kPair;
    const int64_t group = token / kLanes * group_elements;
    for (int64_t line = 0; line < group_elements; line += kLanes * kPair) {
      std::copy_n(source + group + line, lanes, target + group + line);
    }
  }
  const int64_t values = int64_t{stored_tokens_} * stored_dim_;
  for (int32_t dim = 0; dim < stored_dim_; dim += kLanes) {
    const int64_t panel = values + int64_t{dim} * stored_tokens_;
    const int64_t whole = int64_t{tokens} / kPair * kPair * kLanes;
    std::copy_n(source + panel, whole, target + panel);
    for (int64_t lane = 0; lane < kLanes && tokens % kPair != 0; ++lane) {
      target[panel + whole + lane * kPair] = source[panel + whole + lane * kPair];
    }
  }
}

void KvPool::CopyBlocks(std::span<const BlockCopy> copies, ThreadPool* pool) {
  if (copies.empty()) return;
  pool->ParallelFor(int64_t{shape_.layers} * shape_.kv_heads, 4, [&](int64_t layer_head, int32_t) {
    for (const BlockCopy& copy : copies) {
      ESPALIER_CHECK(copy.source >= 0 && copy.source < blocks_ && copy.destination >= 0 &&
                     copy.destination < blocks_ && copy.tokens <= block_tokens_);
      const std::byte* from = Block(layer_head, copy.source);
      std::byte* to = Block(layer_head, copy.destination);
      if (shape_.kv_dtype == DType::kFloat32) {
        CopyTokens<float, 1>(from, to, copy.tokens);
      } else {
        CopyTokens<bf16_t, 2>(from, to, copy.tokens);
      }
    }
  });
}

}  // namespace espalier::cpu
