#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/block_allocator.h"
#include "engine/prefix_index.h"
#include "kernels/base/result.h"
#include "kernels/step_input.h"

namespace espalier {

// A token that has been sampled in a step whose result is not yet known.
inline constexpr int32_t kUnknownToken = -1;

// A run of tokens on one or more paths, with the blocks that hold their KV.
//
//   tokens:  [0 ........ computed ........ issued ........ size)
//             KV written          in flight         not yet issued
//
// 1. begin_position is a multiple of B, the block length; a node ends where its children begin. So every node
//    with children holds whole blocks only, and a partly filled last block belongs to a leaf of the tree.
// 2. Blocks have one owner. blocks.size() >= ceil(issued_tokens / B).
// 3. A tail node, a leaf in use, is written on behalf of one branch, its holder. Inner nodes are shared.
// 4. The first indexed_tokens (whole blocks, all known) can be found through the prefix index.
struct KvNode {
  bool alive = false;
  int32_t parent = -1;          // -1: the first of its path
  int32_t cache_namespace = 0;  // handle
  int32_t begin_position = 0;
  int32_t known_tokens = 0;  // leading tokens that are not kUnknownToken
  int32_t issued_tokens = 0;
  int32_t indexed_tokens = 0;
  int32_t holders = 0;     // 1 while a branch owns this node: a tail node
  int32_t pins = 0;        // holders + children with pins: 0 means that no branch uses the node
  int32_t children = 0;    // all, pinned or not
  uint64_t last_use = 0;   // logical time of the last unpinning; 0: cold
  uint64_t last_step = 0;  // last step that may use the blocks; set with last_use
  // Rows issued in the step that is being planned: [issued_before_step, issued_tokens) if touched_step is
  // that step.
  uint64_t touched_step = 0;
  int32_t issued_before_step = 0;
  // Watermarks of steps in flight: (step, issued_tokens after it). At most two steps are in flight.
  std::array<std::pair<uint64_t, int32_t>, 3> marks{};
  int32_t mark_count = 0;
  int32_t committed_tokens = 0;  // watermark of all earlier steps
  std::vector<int32_t> tokens;
  std::vector<int32_t> blocks;

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  int32_t end_position() const { return begin_position + size(); }
  int32_t issued_end() const { return begin_position + issued_tokens; }
};

// What a step must do to memory before its rows run. `copies` come after `zero_blocks`.
struct StepMemory {
  std::vector<int32_t> zero_blocks;
  std::vector<BlockCopy> copies;
};

// All KV that is computed, being computed or promised, and the prefix index over it. Owns every block it
// allocates. Not thread-safe; no clock.
//
// The *prefill of a node belongs to the node*: OpenPath enters given tokens into the index before they are
// computed, so that equal prompts in flight find the same node; whichever branch is scheduled first issues
// its rows. What has not been issued when no branch needs it any more is dropped.
class KvTree {
 public:
  // Precondition: block_tokens > 0. The allocator outlives this.
  KvTree(BlockAllocator* allocator, int32_t block_tokens);

  int32_t block_tokens() const { return block_tokens_; }
  const KvNode& node(int32_t id) const { return nodes_[static_cast<size_t>(id)]; }
  int32_t node_capacity() const { return static_cast<int32_t>(nodes_.size()); }

  // Cache namespaces: paths of different ones never share anything. A private one is found by its
  // owner only, and forgotten on release.
  int32_t AcquireCacheNamespace(const std::string& name);
  int32_t AcquirePrivateCacheNamespace();
  void ReleaseCacheNamespace(int32_t cache_namespace);

  struct Matched {
    int32_t tokens = 0;       // of a prefix, whole blocks
    int32_t idle_blocks = 0;  // of these: blocks that no branch uses now
  };
  // What OpenPath would find, without taking it.
  Matched Match(int32_t cache_namespace, std::span<const int32_t> tokens) const;

  struct OpenedPath {
    int32_t tail = -1;
    int32_t cached_tokens = 0;  // found in the index: computed, or being computed for someone else
  };
  // Opens a path of known tokens and pins it: shared nodes for whole blocks (found, or created and promised),
  // and a tail node with the rest, which no other branch sees. The last token and everything from position
  // `private_from` on is in the tail node. Allocates nothing. Precondition: tokens not empty.
  OpenedPath OpenPath(int32_t cache_namespace, std::span<const int32_t> tokens, int32_t private_from);

  // A second tail node with the same path as `tail`: what is issued up to `keep_end` is shared (whole blocks)
  // or copied (the rest: one block), later tokens are repeated and not issued. Precondition:
  // tail.begin_position <= keep_end <= tail.issued_end(), all of it issued in earlier steps; ForkBlocks()
  // blocks are free.
  int32_t ForkTail(int32_t tail, int32_t keep_end, StepMemory* memory);
  int32_t ForkBlocks(int32_t tail, int32_t keep_end) const;

  // Enters whole blocks of a held tail node into the index before they are computed, as OpenPath does: all
  // but the last token and what lies from `private_from` on. False: nothing changed, there are none or they
  // are found elsewhere. Precondition: all tokens are known.
  bool PromiseTail(int32_t tail, int32_t private_from);

  // Growth and correction of a tail node. Positions are absolute.
  void Append(int32_t tail, int32_t token_or_unknown);
  void SetToken(int32_t tail, int32_t position, int32_t token);  // tokens become known in order
  void Truncate(int32_t tail, int32_t end_position);             // precondition: nothing indexed beyond it
  // The rows from `position` on will be issued again (they write the same values). Precondition: position >=
  // begin_position.
  void Reissue(int32_t tail, int32_t position);

  // Rows. `rows` more tokens of the node are issued with the step being planned.
  int32_t BlocksForRows(int32_t id, int32_t rows) const;         // to allocate for them
  void IssueRows(int32_t id, int32_t rows, StepMemory* memory);  // precondition: that many blocks are free
  int32_t ComputedTokens(int32_t id) const;

  // Enters whole blocks of known, issued tokens of a held tail node into the index, unless equal content is
  // there already. While the tail node grows, its last token stays out (its row may have to be issued again).
  void IndexTail(int32_t tail, bool final);

  // The holder lets go. Indexed whole blocks stay until evicted; the rest is freed. `cold`: no request
  // is expected to ask for the tail node's tokens again, so that they are evicted before all that others have
  // used.
  void Release(int32_t tail, bool cold = false);

  // Frees up to `blocks` blocks that no branch uses, least recently used first. Returns how many (some may
  // still be retiring).
  int32_t Evict(int32_t blocks);

  // Steps, numbered from 1. BeginStep: planning starts; EndStep: issued, or abandoned when `issued` is false.
  void BeginStep(uint64_t step);
  void EndStep(bool issued);
  void CommitStep(uint64_t step);
  uint64_t current_step() const { return current_step_; }
  // Nodes with rows in the step that is being planned (each once; may hold nodes without).
  const std::vector<int32_t>& touched() const { return touched_; }

  // Blocks by use; with the allocator's free and retiring blocks they add up to its total.
  int32_t live_blocks() const { return live_blocks_; }
  int32_t indexed_blocks() const { return owned_blocks_ - live_blocks_; }  // used by no branch
  int64_t evicted_blocks() const { return evicted_blocks_; }
  // Nodes that releases of private spaces have looked at: as many as they remove, whatever else is cached.
  int64_t looked_at() const { return looked_at_; }

  // Every invariant, in full. Linear in nodes and blocks.
  Status Check() const;
  // The sums alone: free + retiring + owned = total, and nothing live where `idle`. Constant time.
  Status CheckSums(bool idle) const;

 private:
  using Evictable = std::set<std::pair<uint64_t, int32_t>>;  // (last_use, id): unpinned, no children
  struct CacheNamespace {
    std::string name;
    bool is_private = false;
    int32_t users = 0;
    int32_t nodes = 0;
    Evictable evictable = {};  // of a private cache namespace, besides evictable_
  };

  KvNode& at(int32_t id) { return nodes_[static_cast<size_t>(id)]; }
  int32_t NewNode(int32_t parent, int32_t cache_namespace, int32_t begin_position,
                  std::span<const int32_t> tokens);
  void RemoveNode(int32_t id);
  void DropCacheNamespaceIfUnused(int32_t cache_namespace);
  void RemoveUnpinned(int32_t cache_namespace);

  // Cuts a node in two at a multiple of B; the id stays with the lower part. Returns the upper one.
  int32_t Split(int32_t id, int32_t tokens);

  uint64_t IndexKey(const KvNode& of) const;
  bool FullyIndexed(int32_t id) const;
  int32_t FindEdge(int64_t origin, std::span<const int32_t> first_block) const;
  void IndexTokens(int32_t id, int32_t tokens);
  int32_t MatchInNode(const KvNode& in, std::span<const int32_t> tokens) const;

  void Pin(int32_t id);
  void Unpin(int32_t id, bool cold);
  void SetEvictable(int32_t id, bool evictable);
  void Finalize(int32_t id);  // of an unpinned node without children: keep what is indexed, or remove it
  void TrimBlocks(int32_t id, int32_t keep_blocks);
  void AllocateBlock(int32_t id, StepMemory* memory);

  BlockAllocator* allocator_;
  int32_t block_tokens_;
  std::deque<KvNode> nodes_;
  std::vector<int32_t> free_nodes_;
  PrefixIndex index_;
  Evictable evictable_;
  std::unordered_map<int32_t, CacheNamespace> cache_namespaces_;
  std::map<std::string, int32_t> cache_namespace_names_;
  int32_t next_cache_namespace_ = 0;
  uint64_t tick_ = 0;
  uint64_t current_step_ = 0;  // being planned, else the last issued one
  uint64_t committed_step_ = 0;
  std::vector<int32_t> touched_;
  int32_t owned_blocks_ = 0;
  int32_t live_blocks_ = 0;
  int64_t evicted_blocks_ = 0;
  int64_t looked_at_ = 0;
};

}  // namespace espalier
