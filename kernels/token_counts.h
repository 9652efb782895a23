#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/step_input.h"

namespace espalier {

// What the penalties need to know of a path: how often each token was generated on it. A token that occurs
// only in the prompt has count 0. Copies share what does not change any more. Not thread-safe; but several
// threads may read one, and what it shares with others.
class TokenCounts {
 public:
  // Each token of a part of the path once, with its count there.
  using Part = std::vector<std::pair<int32_t, int32_t>>;

  TokenCounts() = default;
  TokenCounts(std::initializer_list<std::pair<const int32_t, int32_t>> counts) : own_(counts) {}

  void AddPart(std::shared_ptr<const Part> part) { parts_.push_back(std::move(part)); }
  void AddGenerated(int32_t token_id) { ++own_[token_id]; }

  // Calls each(token_id, count) for every token of every part: a token comes up as often as there are parts
  // that hold it, and its counts add up.
  template <typename Each>
  void ForEach(const Each& each) const {
    for (const auto& part : parts_) {
      for (const auto& [token_id, count] : *part) each(token_id, count);
    }
    for (const auto& [token_id, count] : own_) each(token_id, count);
  }

 private:
  std::vector<std::shared_ptr<const Part>> parts_;
  std::unordered_map<int32_t, int32_t> own_;
};

// Counts the pieces of paths, each once for as long as a path has it. Not thread-safe.
class HistoryCounter {
 public:
  TokenCounts Count(const SequenceHistory& history);

  // Tokens that have been counted so far: for tests.
  int64_t counted_tokens() const { return counted_tokens_; }
  // Pieces that are remembered: not many more than twice those that paths have.
  size_t known_pieces() const { return pieces_.size(); }

 private:
  struct Counted {
    std::weak_ptr<const PathHistory> piece;  // expired: the address may be another's
    std::shared_ptr<const TokenCounts::Part> part;
  };

  const std::shared_ptr<const TokenCounts::Part>& PartOf(const std::shared_ptr<const PathHistory>& piece);
  void ForgetExpired();

  std::unordered_map<const PathHistory*, Counted> pieces_;
  size_t forget_at_ = 0;  // pieces
  int64_t counted_tokens_ = 0;
};

}  // namespace espalier
