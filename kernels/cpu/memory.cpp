#include "kernels/cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace espalier::cpu {

namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

Error OutOfMemory(int64_t bytes, const std::string& field) {
  return Error{
      ErrorCode::kResourceExhausted, field,
      "cannot allocate " +
          (bytes < (1 << 20) ? std::to_string(bytes) + " bytes" : std::to_string(bytes >> 20) + " MiB") +
          " of memory"};
}

int64_t PhysicalBytes() {
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
}

// Maps `bytes` (a multiple of the huge page) on a huge page's border, or returns null.
void* MapAligned(int64_t bytes) {
  const auto size = static_cast<size_t>(bytes + kHugePage);
  void* mapping = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapping);
  const auto address = static_cast<int64_t>(reinterpret_cast<intptr_t>(begin));
  const int64_t before = RoundUp(address, kHugePage) - address;
  if (before > 0) munmap(begin, static_cast<size_t>(before));
  if (before < kHugePage) munmap(begin + before + bytes, static_cast<size_t>(kHugePage - before));
  madvise(begin + before, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return begin + before;
}

}  // namespace

Result<Buffer> Buffer::Allocate(int64_t bytes, const std::string& field) {
  Buffer buffer;
  if (bytes < 0 || bytes > PhysicalBytes()) return OutOfMemory(bytes, field);
  const bool mapped = bytes >= kHugePage;
  const int64_t size = mapped ? RoundUp(bytes, kHugePage) : RoundUp(bytes < 64 ? 64 : bytes, 64);
  void* data = mapped ? MapAligned(size) : std::aligned_alloc(64, static_cast<size_t>(size));
  if (data == nullptr) return OutOfMemory(bytes, field);
  if (!mapped) std::memset(data, 0, static_cast<size_t>(size));
  buffer.data_ = std::unique_ptr<void, BufferRelease>(data, BufferRelease{size, mapped});
  return buffer;
}

void BufferRelease::operator()(void* data) const {
  if (mapped) {
    munmap(data, static_cast<size_t>(bytes));
  } else {
    std::free(data);
  }
}

}  // namespace espalier::cpu
