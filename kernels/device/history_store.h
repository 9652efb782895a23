#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "kernels/step_input.h"

namespace espalier::device {

// What penalties need of a sequence's path: how often each token was generated; 0 for tokens of the prompt
// only. `pending` samples were issued and are not known to the host yet.
struct HistoryCounts {
  std::unordered_map<int32_t, int32_t> tokens;
  int32_t pending = 0;
};

// The penalty histories of sequence slots on the host. A sequence slot that gets a new history while a sample
// of the old one is still on the device loses nothing: the sample holds on to the old counts. Not
// thread-safe.
class HistoryStore {
 public:
  void Set(const SequenceHistory& history) {
    auto counts = std::make_shared<HistoryCounts>();
    history.ForEachPiece([&](const PathHistory& piece) {
      for (const int32_t id : piece.prompt_tokens) counts->tokens.try_emplace(id, 0);
      for (const int32_t id : piece.generated_tokens) ++counts->tokens[id];
    });
    counts_of_slot_[history.sequence_slot] = std::move(counts);
  }

  // Notes that a token is about to be sampled for the sequence slot. Returns what to call Sampled with when
  // it is known; null where the sequence does not use its history, which is then forgotten.
  std::shared_ptr<HistoryCounts> Issue(int32_t sequence_slot, bool uses_history) {
    if (!uses_history) {
      counts_of_slot_.erase(sequence_slot);
      return nullptr;
    }
    std::shared_ptr<HistoryCounts>& counts = counts_of_slot_[sequence_slot];
    if (counts == nullptr) counts = std::make_shared<HistoryCounts>();
    ++counts->pending;
    return counts;
  }

  static void Sampled(HistoryCounts* counts, int32_t token_id) {
    ++counts->tokens[token_id];
    --counts->pending;
  }

 private:
  std::unordered_map<int32_t, std::shared_ptr<HistoryCounts>> counts_of_slot_;
};

}  // namespace espalier::device
