#include "engine/block_allocator.h"

#include <set>

#include "tests/support/catch.h"

namespace espalier {
namespace {

TEST_CASE("an allocator hands out every block once") {
  BlockAllocator allocator(5);
  std::set<int32_t> blocks;
  while (allocator.free_blocks() > 0) blocks.insert(allocator.Allocate());
  CHECK(blocks == std::set<int32_t>{0, 1, 2, 3, 4});
}

TEST_CASE("a freed block is free when the last step that reads it has committed") {
  BlockAllocator allocator(3);
  const int32_t a = allocator.Allocate();
  const int32_t b = allocator.Allocate();
  const int32_t c = allocator.Allocate();
  allocator.Free(a, 0);  // no step ever read it
  CHECK(allocator.free_blocks() == 1);
  allocator.Free(b, 2);
  allocator.Free(c, 1);
  CHECK(allocator.retiring_blocks() == 2);
  allocator.CommitStep(1);
  CHECK(allocator.free_blocks() == 2);
  CHECK(allocator.RetiringList() == std::vector<int32_t>{b});
  allocator.CommitStep(2);
  CHECK(allocator.free_blocks() == 3);
  CHECK(allocator.retiring_blocks() == 0);
}

TEST_CASE("blocks that wait for a step which is never issued wait for the one before") {
  BlockAllocator allocator(2);
  allocator.Free(allocator.Allocate(), 4);
  allocator.Free(allocator.Allocate(), 3);
  allocator.CommitStep(2);
  allocator.AbandonStepsAfter(3);
  CHECK(allocator.retiring_blocks() == 2);
  allocator.CommitStep(3);
  CHECK(allocator.free_blocks() == 2);

  allocator.Free(allocator.Allocate(), 4);
  allocator.AbandonStepsAfter(3);
  CHECK(allocator.free_blocks() == 2);
}

}  // namespace
}  // namespace espalier
