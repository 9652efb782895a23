#include "engine/block_allocator.h"

#include <algorithm>

#include "kernels/base/result.h"

namespace espalier {

BlockAllocator::BlockAllocator(int32_t total_blocks) : total_(total_blocks) {
  ESPALIER_CHECK(total_blocks >= 0);
  free_.reserve(static_cast<size_t>(total_blocks));
  for (int32_t block = total_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockAllocator::Allocate() {
  ESPALIER_CHECK(!free_.empty());
  const int32_t block = free_.back();
  free_.pop_back();
  return block;
}

void BlockAllocator::Free(int32_t block, uint64_t last_step) {
  ESPALIER_CHECK(block >= 0 && block < total_);
  if (last_step <= committed_step_) {
    free_.push_back(block);
  } else {
    retiring_.push_back({block, last_step});
  }
}

void BlockAllocator::CommitStep(uint64_t step) {
  ESPALIER_CHECK(step >= committed_step_);
  committed_step_ = step;
  const auto done = [&](const Retiring& entry) { return entry.last_step <= step; };
  for (const Retiring& entry : retiring_) {
    if (done(entry)) free_.push_back(entry.block);
  }
  std::erase_if(retiring_, done);
}

void BlockAllocator::AbandonStepsAfter(uint64_t step) {
  for (Retiring& entry : retiring_) entry.last_step = std::min(entry.last_step, step);
  CommitStep(committed_step_);
}

std::vector<int32_t> BlockAllocator::RetiringList() const {
  std::vector<int32_t> blocks;
  for (const Retiring& entry : retiring_) blocks.push_back(entry.block);
  return blocks;
}

}  // namespace espalier
