#pragma once

#include <cstdint>
#include <deque>
#include <vector>

namespace espalier {

// Hands out the ids of KV blocks. No reference counts: the object that allocated a block is its only owner.
//
// A freed block may still be read by steps in flight. It becomes free when the last of them has committed;
// until then it is *retiring*. Invariant: free + retiring + allocated = total.
class BlockAllocator {
 public:
  explicit BlockAllocator(int32_t total_blocks);

  int32_t total_blocks() const { return total_; }
  int32_t free_blocks() const { return static_cast<int32_t>(free_.size()); }
  int32_t retiring_blocks() const { return static_cast<int32_t>(retiring_.size()); }

  // Precondition: free_blocks() > 0.
  int32_t Allocate();

  // `last_step`: the last step that may read or write the block; steps are numbered from 1.
  void Free(int32_t block, uint64_t last_step);

  // Steps commit in order: every step up to `step` has been executed.
  void CommitStep(uint64_t step);

  // The steps after `step` were planned and then not issued: nothing in flight reads on their behalf.
  void AbandonStepsAfter(uint64_t step);

  // For invariant checks: the ids in each state.
  const std::vector<int32_t>& free_list() const { return free_; }
  std::vector<int32_t> RetiringList() const;

 private:
  struct Retiring {
    int32_t block;
    uint64_t last_step;
  };

  int32_t total_;
  uint64_t committed_step_ = 0;
  std::vector<int32_t> free_;
  std::deque<Retiring> retiring_;
};

}  // namespace espalier
