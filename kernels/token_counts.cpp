#include "kernels/token_counts.h"

#include <algorithm>

namespace espalier {

TokenCounts HistoryCounter::Count(const SequenceHistory& history) {
  if (pieces_.size() >= forget_at_) ForgetExpired();
  TokenCounts counts;
  for (const std::shared_ptr<const PathHistory>* piece = &history.path; *piece != nullptr;
       piece = &(*piece)->above)
    counts.AddPart(PartOf(*piece));
  return counts;
}

const std::shared_ptr<const TokenCounts::Part>& HistoryCounter::PartOf(
    const std::shared_ptr<const PathHistory>& piece) {
  Counted& counted = pieces_[piece.get()];
  if (!counted.piece.expired()) return counted.part;
  std::unordered_map<int32_t, int32_t> counts;
  for (const int32_t id : piece->prompt_tokens) counts.try_emplace(id, 0);
  for (const int32_t id : piece->generated_tokens) ++counts[id];
  counted_tokens_ += static_cast<int64_t>(piece->prompt_tokens.size() + piece->generated_tokens.size());
  counted = {piece, std::make_shared<const TokenCounts::Part>(counts.begin(), counts.end())};
  return counted.part;
}

void HistoryCounter::ForgetExpired() {
  constexpr size_t kAlwaysKept = 16;
  std::erase_if(pieces_, [](const auto& entry) { return entry.second.piece.expired(); });
  forget_at_ = std::max(2 * pieces_.size(), kAlwaysKept);
}

}  // namespace espalier
