#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/pair_table.h"

namespace espalier {

struct BpeOptions {
  std::string unk_token;  // Empty: characters that nothing covers are dropped.
  bool fuse_unk = false;  // A run of unknown characters becomes one token.
  bool byte_fallback = false;
  bool ignore_merges = false;  // A word that is in the vocabulary is one token, merges or not.
};

// Work done by Encode calls; what makes its cost visible to tests.
struct BpeCounters {
  uint64_t symbols = 0;  // Characters and fallback bytes before merging.
  uint64_t merges = 0;
  uint64_t queue_pops = 0;  // At most symbols + 2 * merges, and merges < symbols: linear.
};

// Byte-pair encoding over characters (Sennrich et al., https://arxiv.org/abs/1508.07909), with the rules of
// the tokenizers package: of all adjacent pairs the one whose merge was learnt first is merged, the leftmost
// of equals. A priority queue over a linked list: n log n for a word of n characters. Immutable.
class BpeModel {
 public:
  // `vocab`: token of each id, all different but for empty ones, which are no tokens. `merges`: pairs of
  // tokens in the order learnt. Errors name the field of tokenizer.json ("model.merges[3]: ...") in their
  // message.
  static Result<BpeModel> Create(const std::vector<std::string>& vocab,
                                 const std::vector<std::pair<std::string, std::string>>& merges,
                                 const BpeOptions& options);

  // Appends the tokens of `word`, valid UTF-8 of less than 2^31 bytes.
  void Encode(std::string_view word, std::vector<int32_t>* ids, BpeCounters* counters = nullptr) const;

  // -1 if it is not in the vocabulary.
  int32_t TokenToId(std::string_view token) const;
  int32_t unk_id() const { return unk_id_; }

 private:
  struct Symbol {
    int32_t id;
    int32_t prev;  // -1: none.
    int32_t next;  // -1: none.
    bool merged_away;
  };

  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };

  BpeModel() = default;
  std::vector<Symbol> InitialSymbols(std::string_view word) const;
  void MergeAll(std::vector<Symbol>* symbols, BpeCounters* counters) const;

  std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>> token_to_id_;
  PairTable merges_;               // (left id, right id) -> rank, merged id
  PairTable characters_;           // (0, code point) -> id
  std::vector<int32_t> byte_ids_;  // [256]; -1: no such token
  int32_t unk_id_ = -1;
  BpeOptions options_;
};

}  // namespace espalier
