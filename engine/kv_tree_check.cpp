#include <string>
#include <vector>

#include "engine/kv_tree.h"

namespace espalier {

namespace {

Error Broken(int32_t node, const std::string& what) {
  return InternalError("KV node " + std::to_string(node) + ": " + what);
}

// Marks the block as owned; false where it has an owner already or does not exist.
bool Claim(std::vector<bool>* claimed, int32_t block) {
  if (block < 0 || static_cast<size_t>(block) >= claimed->size()) return false;
  if ((*claimed)[static_cast<size_t>(block)]) return false;
  (*claimed)[static_cast<size_t>(block)] = true;
  return true;
}

Status CheckNodeItself(const KvNode& node, int32_t id, int32_t block_tokens) {
  const int32_t needed = (node.issued_tokens + block_tokens - 1) / block_tokens;
  if (static_cast<int32_t>(node.blocks.size()) < needed) return Broken(id, "issued tokens without blocks");
  if (node.issued_tokens > node.size() || node.known_tokens > node.size())
    return Broken(id, "watermark beyond the end");
  if (node.begin_position % block_tokens != 0) return Broken(id, "begins inside a block");
  if (node.children > 0 && node.size() % block_tokens != 0)
    return Broken(id, "inner node with a partly filled block");
  if (node.holders > 1 || (node.holders == 1 && node.children > 0))
    return Broken(id, "holder of an inner node");
  if (node.indexed_tokens % block_tokens != 0 || node.indexed_tokens > node.known_tokens)
    return Broken(id, "indexed tokens not known or no whole blocks");
  if (node.pins == 0 && node.issued_tokens < node.size())
    return Broken(id, "promised tokens that no branch waits for");
  if (node.pins == 0 && node.children == 0 && node.indexed_tokens == 0)
    return Broken(id, "neither used nor indexed");
  for (int32_t i = 0; i < node.size(); ++i) {
    if ((node.tokens[static_cast<size_t>(i)] != kUnknownToken) != (i < node.known_tokens))
      return Broken(id, "known_tokens is wrong");
  }
  return {};
}

}  // namespace

Status KvTree::CheckSums(bool idle) const {
  if (owned_blocks_ + allocator_->free_blocks() + allocator_->retiring_blocks() != allocator_->total_blocks())
    return InternalError("blocks lost: free, retiring, indexed and live do not add up to the total");
  if (idle && live_blocks_ != 0)
    return InternalError(std::to_string(live_blocks_) + " blocks live, and no branch that uses them");
  return {};
}

Status KvTree::Check() const {
  std::vector<int32_t> children(nodes_.size(), 0);
  std::vector<int32_t> pins(nodes_.size(), 0);
  std::vector<bool> claimed(static_cast<size_t>(allocator_->total_blocks()), false);
  std::unordered_map<int32_t, int32_t> nodes_of_namespace;
  int32_t owned = 0;
  int32_t live = 0;
  size_t indexed_nodes = 0;
  size_t evictable = 0;
  for (int32_t id = 0; id < node_capacity(); ++id) {
    const KvNode& here = node(id);
    if (!here.alive) continue;
    Status itself = CheckNodeItself(here, id, block_tokens_);
    if (!itself.ok()) return itself;
    for (const int32_t block : here.blocks) {
      if (!Claim(&claimed, block)) return Broken(id, "block " + std::to_string(block) + " has two owners");
    }
    owned += static_cast<int32_t>(here.blocks.size());
    if (here.pins > 0) live += static_cast<int32_t>(here.blocks.size());
    pins[static_cast<size_t>(id)] += here.holders;
    ++nodes_of_namespace[here.cache_namespace];
    if (here.parent >= 0) {
      const KvNode& parent = node(here.parent);
      if (!parent.alive || parent.end_position() != here.begin_position ||
          parent.cache_namespace != here.cache_namespace)
        return Broken(id, "does not begin where its parent ends");
      if (here.issued_tokens > 0 && parent.issued_tokens < parent.size())
        return Broken(id, "issued before its parent");
      if (here.indexed_tokens > 0 && !FullyIndexed(here.parent))
        return Broken(id, "indexed below a node that is not");
      ++children[static_cast<size_t>(here.parent)];
      if (here.pins > 0) ++pins[static_cast<size_t>(here.parent)];
    } else if (here.begin_position != 0) {
      return Broken(id, "first of its path, but not at position 0");
    }
    if (here.indexed_tokens > 0) {
      ++indexed_nodes;
      const int64_t origin = here.parent >= 0 ? here.parent : PrefixIndex::RootOrigin(here.cache_namespace);
      if (FindEdge(origin, std::span(here.tokens).first(static_cast<size_t>(block_tokens_))) != id)
        return Broken(id, "the index finds another node with its first block");
    }
    const bool listed = evictable_.count({here.last_use, id}) > 0;
    if (listed != (here.pins == 0 && here.children == 0)) return Broken(id, "eviction list is wrong");
    if (listed) ++evictable;
  }
  for (int32_t id = 0; id < node_capacity(); ++id) {
    const KvNode& here = node(id);
    if (here.alive && here.children != children[static_cast<size_t>(id)])
      return Broken(id, "children miscounted");
    if (here.alive && here.pins != pins[static_cast<size_t>(id)]) return Broken(id, "pins miscounted");
  }
  for (const int32_t block : allocator_->free_list()) {
    if (!Claim(&claimed, block))
      return InternalError("free block " + std::to_string(block) + " has an owner");
  }
  for (const int32_t block : allocator_->RetiringList()) {
    if (!Claim(&claimed, block))
      return InternalError("retiring block " + std::to_string(block) + " has an owner");
  }
  if (owned != owned_blocks_ || live != live_blocks_) return InternalError("blocks miscounted by use");
  if (Status sums = CheckSums(/*idle=*/false); !sums.ok()) return sums;
  if (indexed_nodes != index_.size()) return InternalError("index edges and indexed nodes differ in number");
  if (evictable != evictable_.size()) return InternalError("eviction list holds nodes that are gone");
  for (const auto& [cache_namespace, entry] : cache_namespaces_) {
    const auto found = nodes_of_namespace.find(cache_namespace);
    if (entry.nodes != (found == nodes_of_namespace.end() ? 0 : found->second))
      return InternalError("nodes of a cache namespace miscounted");
  }
  return {};
}

}  // namespace espalier
