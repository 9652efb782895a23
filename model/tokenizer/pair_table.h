#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier {

// Hash table from pairs of 32-bit numbers to pairs of 32-bit numbers: open addressing, linear probing, at
// most half full. Holds merges, characters and trie edges. The pair (2^32 - 1, 2^32 - 1) is no key.
class PairTable {
 public:
  struct Value {
    uint32_t first = 0;
    uint32_t second = 0;
  };

  PairTable() : slots_(kMinSlots) {}

  // Replaces the value of a key that is there already.
  void Set(uint32_t left, uint32_t right, Value value) {
    if ((size_ + 1) * 2 > slots_.size()) Grow();
    Slot& slot = slots_[FindSlot(Key(left, right))];
    if (slot.key == kNoKey) ++size_;
    slot = {Key(left, right), value};
  }

  // nullptr: no such key. Valid until the next Set.
  const Value* Find(uint32_t left, uint32_t right) const {
    const Slot& slot = slots_[FindSlot(Key(left, right))];
    return slot.key == kNoKey ? nullptr : &slot.value;
  }

 private:
  static constexpr uint64_t kNoKey = ~uint64_t{0};
  static constexpr size_t kMinSlots = 16;

  struct Slot {
    uint64_t key = kNoKey;
    Value value;
  };

  static uint64_t Key(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

  size_t FindSlot(uint64_t key) const {
    // Fibonacci hashing: the high bits of the product are well mixed.
    const int shift = 64 - std::countr_zero(slots_.size());
    size_t at = static_cast<size_t>(key * 0x9E3779B97F4A7C15u >> shift);
    while (slots_[at].key != key && slots_[at].key != kNoKey) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  void Grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.key != kNoKey) slots_[FindSlot(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t size_ = 0;
};

}  // namespace espalier
