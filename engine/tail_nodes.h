#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/block_allocator.h"
#include "engine/kv_tree.h"
#include "engine/request_table.h"

namespace espalier {

// Which sequences are in memory: who holds a tail node of the KV tree, who has yet to continue it, and what
// each peer holds. Owns the pool and the KV tree. Not thread-safe.
class TailNodes {
 public:
  // The table outlives this.
  TailNodes(int32_t total_blocks, int32_t block_tokens, RequestTable* requests)
      : allocator_(total_blocks), kv_(&allocator_, block_tokens), requests_(requests) {}

  const KvTree& kv() const { return kv_; }
  // For growth of tail nodes that are held, and their rows. Tail nodes are made and released here alone.
  KvTree& mutable_kv() { return kv_; }
  const BlockAllocator& blocks() const { return allocator_; }
  int32_t running() const { return running_; }  // sequences with a tail node
  // Blocks that are free now, or as soon as steps in flight have committed and cold prefixes are evicted.
  int32_t AvailableBlocks() const {
    return allocator_.free_blocks() + allocator_.retiring_blocks() + kv_.indexed_blocks();
  }

  // The request may hold tail nodes from now on, in its cache namespace; and releases all of them for good.
  void Enter(ScheduledRequest* request);
  void Leave(ScheduledRequest* request);

  // Between these a step is planned: no tail node that has rows in it is released.
  void BeginStep(uint64_t step);
  void EndStep(bool issued);

  // Tail nodes. Each change is counted for the request's peer.
  // Returns how many tokens of the path were found in the cache. `private_from`: see KvTree::OpenPath.
  int32_t Open(ScheduledRequest* request, Sequence* sequence, const std::vector<int32_t>& path,
               int32_t private_from);
  void Fork(ScheduledRequest* request, Sequence* sequence, int32_t tail, int32_t keep_end,
            StepMemory* memory);
  void TakeOver(ScheduledRequest* request, Sequence* sequence, Sequence* source);
  // The sequence goes on later, from its tokens. Results of steps in flight are still taken.
  void Drop(ScheduledRequest* request, Sequence* sequence);
  void DropAll(ScheduledRequest* request);
  void IssueRows(ScheduledRequest* request, int32_t node, int32_t rows, StepMemory* memory);

  // The sequence has no further need of its source's tail node.
  void DropClaim(ScheduledRequest* request, Sequence* sequence);
  // After a change: lists the sequence if it wants rows, releases its tail node if nothing needs it any more.
  // A given branch has no tail node: what holds its tokens may have become needless.
  void UpdateRunnable(ScheduledRequest* request, Sequence* sequence);
  // Listed sequences that want rows now, by number.
  const std::vector<int32_t>& CollectWork(ScheduledRequest* request);

  // Requests that hold tail nodes, in the order of service: all of them, and those of a peer.
  using Holders = RequestTable::Ordered;
  const Holders& holders() const { return holders_; }
  const Holders& holders_of(int32_t peer) const;

  // Blocks that only the peer's requests use. Counted anew in each step that asks, then kept up to date.
  int32_t HeldBy(int32_t peer);
  // PeerShares::VisitHoldersAbove, once that is counted.
  template <typename Visit>
  bool VisitHoldersAbove(int32_t blocks, const Visit& visit) {
    CountHeld();
    return requests_->peers().VisitHoldersAbove(blocks, visit);
  }

 private:
  void Give(ScheduledRequest* request, Sequence* sequence, int32_t tail);
  int32_t Take(ScheduledRequest* request, Sequence* sequence);
  void CountHeld();
  void NoteHeld(const ScheduledRequest& request, int32_t blocks_before);

  BlockAllocator allocator_;
  KvTree kv_;
  RequestTable* requests_;
  Holders holders_;
  std::unordered_map<int32_t, Holders> holders_of_;  // by peers; none is empty
  int32_t running_ = 0;
  bool planning_ = false;
  bool held_counted_ = false;  // the peers' shares are known, of the step being planned
};

}  // namespace espalier
