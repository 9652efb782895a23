#pragma once

#include "kernels/device/device_code.h"

namespace espalier::device {

// Where a KV pool keeps its elements: [layers][kv_heads][blocks] of blocks. A block holds K as
// [stored_dim / 8][block_tokens][8], so that threads with a token each read neighbouring addresses, then V as
// [block_tokens][stored_dim], where threads have a dim each. All offsets are in elements and 64 bits wide.
inline constexpr int32_t kKeyChunk = 8;

struct KvLayout {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t blocks = 0;
  int32_t block_tokens = 0;
  int32_t stored_dim = 0;  // head_dim rounded up to kKeyChunk; dims behind a head's own stay zero

  constexpr int64_t BlockElements() const { return int64_t{2} * block_tokens * stored_dim; }
  // layer_head: layer * kv_heads + KV head.
  constexpr int64_t BlockAt(int64_t layer_head, int32_t block) const {
    return (layer_head * blocks + block) * BlockElements();
  }
  // Within a block: the eight elements [8 * chunk, 8 * chunk + 8) of a token's key.
  constexpr int64_t KeyChunkAt(int32_t chunk, int32_t slot) const {
    return (int64_t{chunk} * block_tokens + slot) * kKeyChunk;
  }
  constexpr int64_t KeyAt(int32_t slot, int32_t dim) const {
    return KeyChunkAt(dim / kKeyChunk, slot) + dim % kKeyChunk;
  }
  constexpr int64_t ValueAt(int32_t slot, int32_t dim) const {
    return int64_t{block_tokens} * stored_dim + int64_t{slot} * stored_dim + dim;
  }
};

}  // namespace espalier::device
