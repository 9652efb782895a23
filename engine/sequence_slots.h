#pragma once

#include <cstdint>
#include <vector>

#include "engine/sequence.h"

namespace espalier {

// Hands out the device's slots to the sequences that generate: the slot holds the last token that was
// sampled, and what penalties count. As many slots as ever run at one time. Not thread-safe.
class SequenceSlots {
 public:
  // Precondition: the sequence has none.
  void Take(Sequence* sequence) {
    if (free_.empty()) free_.push_back(slots_++);
    sequence->slot = free_.back();
    free_.pop_back();
  }
  // No effect where it has none.
  void Return(Sequence* sequence) {
    if (sequence->slot < 0) return;
    free_.push_back(sequence->slot);
    sequence->slot = -1;
  }

 private:
  std::vector<int32_t> free_;
  int32_t slots_ = 0;
};

}  // namespace espalier
