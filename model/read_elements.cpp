#include "model/read_elements.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <span>
#include <thread>
#include <vector>

#include "kernels/base/mutex.h"

namespace espalier {

namespace {

// Read and looked through at a time: what has been read is still in the cache when its values are checked.
constexpr uint64_t kPieceBytes = uint64_t{256} << 10;
// A thread costs about as much as reading so much by one that runs already.
constexpr uint64_t kThreadBytes = uint64_t{4} << 20;
constexpr uint64_t kMaxThreads = 8;  // enough for what memory gives

class Reading {
 public:
  Reading(const InputFile& file, uint64_t offset, uint64_t bytes, DType type, DType kept, std::byte* to)
      : file_(file), offset_(offset), bytes_(bytes), type_(type), kept_(kept), to_(to) {}

  // Takes pieces until none is left; any number of threads at a time.
  void Run() {
    const uint64_t element_bytes = SizeOf(type_);
    UnfitValues unfit;
    Status status;
    while (status.ok()) {
      const uint64_t at = next_.fetch_add(kPieceBytes);
      if (at >= bytes_) break;
      const std::span<std::byte> piece(to_ + at, static_cast<size_t>(std::min(kPieceBytes, bytes_ - at)));
      status = file_.Read(offset_ + at, piece);
      if (!status.ok()) break;
      unfit.Add(FindUnfit(piece.data(), type_, static_cast<int64_t>(piece.size() / element_bytes), kept_),
                static_cast<int64_t>(at / element_bytes));
    }
    const MutexLock lock(mutex_);
    unfit_.Add(unfit, 0);
    if (!status.ok()) {
      status_ = status;
      next_ = bytes_;  // the others need not go on
    }
  }

  Result<UnfitValues> Finished() {
    const MutexLock lock(mutex_);
    if (!status_.ok()) return status_.error();
    return unfit_;
  }

 private:
  const InputFile& file_;
  const uint64_t offset_;
  const uint64_t bytes_;
  const DType type_;
  const DType kept_;
  std::byte* const to_;
  std::atomic<uint64_t> next_{0};
  Mutex mutex_;
  UnfitValues unfit_ ESPALIER_GUARDED_BY(mutex_);
  Status status_ ESPALIER_GUARDED_BY(mutex_);
};

}  // namespace

Result<UnfitValues> ReadElements(const InputFile& file, uint64_t offset, uint64_t bytes, DType type,
                                 DType kept, std::byte* to) {
  Reading reading(file, offset, bytes, type, kept, to);
  const uint64_t max = std::min<uint64_t>(kMaxThreads, std::max(1U, std::thread::hardware_concurrency()));
  std::vector<std::thread> helpers;
  helpers.reserve(kMaxThreads);  // nothing may be thrown while threads run
  try {
    while (helpers.size() + 1 < std::min(max, bytes / kThreadBytes))
      helpers.emplace_back([&] { reading.Run(); });
  } catch (const std::exception&) {
    // No more threads to be had: those that there are do it.
  }
  reading.Run();
  for (std::thread& helper : helpers) helper.join();
  return reading.Finished();
}

}  // namespace espalier
