#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

namespace espalier {

// The edges of the radix tree over cached prefixes: which KV node continues a given node (or a cache
// namespace's root) with a given block of tokens. The label of an edge is the indexed part of the node it
// leads to, so nothing is stored twice. Two edges of one origin differ in their first block.
//
// Edges are found by a hash of the first block; the caller compares the token ids themselves.
class PrefixIndex {
 public:
  // Origin of an edge: a KV node id (>= 0), or the root of a cache namespace.
  static int64_t RootOrigin(int32_t cache_namespace) { return -1 - static_cast<int64_t>(cache_namespace); }

  static uint64_t Key(int64_t origin, std::span<const int32_t> first_block);

  void Insert(uint64_t key, int32_t node) { edges_.emplace(key, node); }
  // Precondition: inserted.
  void Erase(uint64_t key, int32_t node);

  // The first node among those of this key for which `matches(node)` holds; -1 where there is none.
  template <typename Matches>
  int32_t Find(uint64_t key, Matches matches) const {
    const auto [begin, end] = edges_.equal_range(key);
    for (auto it = begin; it != end; ++it) {
      if (matches(it->second)) return it->second;
    }
    return -1;
  }

  size_t size() const { return edges_.size(); }

 private:
  std::unordered_multimap<uint64_t, int32_t> edges_;
};

}  // namespace espalier
