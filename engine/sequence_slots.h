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
    if (free_.empty()) free_.push_back(sequence_slots_++);
    sequence->sequence_slot = free_.back();
    free_.pop_back();
  }
  // No effect where it has none.
  void Return(Sequence* sequence) {
    if (sequence->sequence_slot < 0) return;
    free_.push_back(sequence->sequence_slot);
    sequence->sequence_slot = -1;
  }

 private:
  std::vector<int32_t> free_;
  int32_t sequence_slots_ = 0;
};

}  // namespace espalier
