#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "kernels/device/device_backend.h"

// Where the backend's memory comes from. What every step needs is reserved before the first one, with the KV
// pool, and a pool that leaves no room for it is refused. How large a step can get knows no useful bound (a
// plan of mode sequence lists a block once for each row that sees it, penalties list the tokens of whole
// paths), so one that outgrows what was reserved takes more where the device has some to spare, and works in
// pinned memory of the host where it has not: slowly, but it never fails for lack of device memory.
namespace espalier::device {

namespace {

// Of partial results of attention: plans that would need more cut less (flatten, sequence).
constexpr int64_t kMaxPartialBytes = int64_t{256} << 20;
// Of a step's descriptor: rows with what is asked of them, and every block of the pool listed a few times.
constexpr int64_t kMaxDescriptorBytes = int64_t{32} << 20;
constexpr int64_t kRowDescriptorBytes = 256;
constexpr int64_t kBlockDescriptorBytes = 4 * (sizeof(DescriptorEntry) + sizeof(DescriptorRun));
// Of a step's results: a row's summary, its token and twenty likely ones; samples beyond the rows.
constexpr int64_t kRowResultBytes = 256;
constexpr int64_t kMoreResultBytes = int64_t{128} << 10;
constexpr int64_t kSequenceSlotsAtOnce = 1 << 14;  // sequence slots
// By which allocations may be rounded up, all together.
constexpr int64_t kRoundingBytes = int64_t{32} << 20;

int64_t LogitBytes(int32_t padded_vocab) { return int64_t{kMaxLogitRows} * padded_vocab * 4; }
int64_t ScratchBytes(int32_t padded_vocab) { return kSampleBlocks * padded_vocab * 4; }

}  // namespace

Result<DeviceMemory> DeviceMemory::Allocate(Device* device, int64_t bytes, const char* field,
                                            const char* what) {
  Result<std::byte*> memory = device->Allocate(std::max<int64_t>(bytes, 16));
  if (memory) return DeviceMemory(device, *memory, bytes, false);
  Error error = memory.error();
  error.field = field;
  error.message =
      std::string(what) + " needs " + std::to_string(bytes) + " bytes of device memory: " + error.message;
  return error;
}

Result<DeviceMemory> DeviceMemory::AllocateHost(Device* device, int64_t bytes, const char* what) {
  Result<std::byte*> memory = device->AllocateHost(std::max<int64_t>(bytes, 16));
  if (memory) return DeviceMemory(device, *memory, bytes, true);
  Error error = memory.error();
  error.message =
      std::string(what) + " needs " + std::to_string(bytes) + " bytes of pinned memory: " + error.message;
  return error;
}

int32_t DeviceBackend::TallestMatrix() const {
  int32_t rows = 0;
  for (const Matrix& matrix : matrices_) rows = std::max(rows, matrix.padded_rows);
  return rows;
}

int64_t DeviceBackend::ResultBytes() const { return max_rows_ * kRowResultBytes + kMoreResultBytes; }

int64_t DeviceBackend::FreeKvBytes() {
  const int64_t free_bytes = device_->FreeBytes();
  const int32_t vocab = TallestMatrix();
  const int64_t besides_pool = LogitBytes(vocab) + ScratchBytes(vocab) + kMaxPartialBytes +
                               kStepsInFlight * (kMaxDescriptorBytes + ResultBytes()) +
                               device_->info().library_bytes + kRoundingBytes;
  return std::max<int64_t>(0, std::min(free_bytes - besides_pool, free_bytes / 100 * 95));
}

// The tallest matrix is the head: its logits are the widest.
Status DeviceBackend::ReserveBeside(const KvPool& pool) {
  const int64_t partial_bytes = PartialBytes(pool);
  const int64_t pool_tokens = int64_t{pool.layout.blocks} * pool.layout.block_tokens;
  const int64_t segments = pool_tokens / kSegmentTokens + 1;  // of the longest path
  const int64_t partials = std::min(kMaxPartialBytes / partial_bytes, max_rows_ * segments);
  const int64_t descriptor_bytes = std::min(
      kMaxDescriptorBytes, static_cast<int64_t>(sizeof(DescriptorHeader)) + max_rows_ * kRowDescriptorBytes +
                               pool.layout.blocks * kBlockDescriptorBytes);
  bool reserved = ReserveSampling(TallestMatrix()) &&
                  Reserve(&partials_, partials * partial_bytes, "attention's partial results");
  for (StepSlot& slot : slots_) {
    reserved = reserved && ReserveHost(&slot.host_descriptor, descriptor_bytes, "a step's plan") &&
               Reserve(&slot.descriptor, descriptor_bytes, "a step's plan") &&
               ReserveHost(&slot.host_results, ResultBytes(), "a step's results") &&
               Reserve(&slot.results, ResultBytes(), "a step's results");
  }
  const int64_t left = device_->FreeBytes();
  std::string lack;
  if (!reserved) {
    lack = device_->status().error().message;
  } else if (left < device_->info().library_bytes) {
    lack = "the device's libraries may take " + std::to_string(device_->info().library_bytes) + " bytes, " +
           std::to_string(left) + " are left";
  }
  if (!lack.empty()) {
    return Error{ErrorCode::kResourceExhausted, "kv-cache-bytes",
                 "leaves too little memory next to the KV pool: " + lack};
  }
  info_.plan.max_partials = std::min(info_.plan.max_partials, partials);
  return {};
}

bool DeviceBackend::Reserve(DeviceMemory* memory, int64_t bytes, const char* what) {
  if (!device_->status().ok()) return false;
  if (memory->data() != nullptr && memory->bytes() >= bytes) return true;
  *memory = DeviceMemory();
  Result<DeviceMemory> grown = DeviceMemory::Allocate(device_.get(), bytes, "", what);
  if (!grown) {
    device_->Fail(grown.error());
    return false;
  }
  *memory = std::move(*grown);
  return true;
}

bool DeviceBackend::ReserveHost(DeviceMemory* memory, int64_t bytes, const char* what) {
  if (!device_->status().ok()) return false;
  if (memory->data() != nullptr && memory->bytes() >= bytes) return true;
  const int64_t some_more = memory->data() == nullptr ? 0 : bytes / 2;  // for what grows step by step
  *memory = DeviceMemory();
  Result<DeviceMemory> grown = DeviceMemory::AllocateHost(device_.get(), bytes + some_more, what);
  if (!grown) {
    device_->Fail(grown.error());
    return false;
  }
  *memory = std::move(*grown);
  return true;
}

bool DeviceBackend::TryGrow(DeviceMemory* memory, int64_t bytes) {
  if (!device_->status().ok()) return false;
  if (memory->data() != nullptr && memory->bytes() >= bytes) return true;
  const int64_t spare = device_->FreeBytes() - device_->info().library_bytes;
  for (const int64_t wanted : {bytes + bytes / 2, bytes}) {
    if (wanted > spare) continue;
    Result<DeviceMemory> grown = DeviceMemory::Allocate(device_.get(), wanted, "", "");
    if (!grown) continue;
    *memory = std::move(*grown);
    return true;
  }
  return false;
}

std::byte* DeviceBackend::Room(DeviceMemory* device, DeviceMemory* host, int64_t bytes, const char* what) {
  if (TryGrow(device, bytes)) return device->data();
  return ReserveHost(host, bytes, what) ? host->data() : nullptr;
}

// Last sampled tokens of at least `sequence_slots` sequence slots; those sampled so far are kept.
bool DeviceBackend::ReserveTokens(int32_t sequence_slots) {
  const int64_t bytes =
      RoundUpTo(sequence_slots, kSequenceSlotsAtOnce) * static_cast<int64_t>(sizeof(int32_t));
  if (last_token_.data() != nullptr && last_token_.bytes() >= bytes) return true;
  DeviceMemory device;
  DeviceMemory host;
  if (Room(&device, &host, bytes, "the sequence slots") == nullptr) return false;
  DeviceMemory grown = std::move(device.data() != nullptr ? device : host);
  device_->Fill(grown.data(), 0xff, grown.bytes());
  if (last_token_.data() != nullptr) {
    device_->Copy(grown.data(), last_token_.data(), last_token_.bytes());
  }
  last_token_ = std::move(grown);
  return device_->status().ok();
}

bool DeviceBackend::ReserveSampling(int32_t padded_vocab) {
  return Reserve(&logits_, LogitBytes(padded_vocab), "logits") &&
         Reserve(&sample_scratch_, ScratchBytes(padded_vocab), "sampling");
}

bool DeviceBackend::PrepareSlot(StepSlot* slot) {
  const int64_t descriptor_bytes = slot->lowered->bytes();
  const ResultLayout results(*slot->lowered);
  if (!ReserveHost(&slot->host_descriptor, descriptor_bytes, "a step's plan") ||
      !ReserveHost(&slot->host_results, results.bytes, "a step's results") ||
      !ReserveTokens(slot->lowered->max_sequence_slot() + 1)) {
    return false;
  }
  slot->descriptor_at = Room(&slot->descriptor, &slot->host_descriptor, descriptor_bytes, "a step's plan");
  slot->results_at = Room(&slot->results, &slot->host_results, results.bytes, "a step's results");
  int64_t partial_bytes = 0;
  for (const KvPool& pool : kv_pools_) partial_bytes = std::max(partial_bytes, PartialBytes(pool));
  partial_bytes *= slot->lowered->header().partials;
  partials_at_ = Room(&partials_, &host_partials_, partial_bytes, "attention's partial results");
  return device_->status().ok();
}

}  // namespace espalier::device
