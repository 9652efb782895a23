#include "model/tokenizer/bpe_model.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <queue>

#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

uint32_t Unsigned(int32_t id) { return static_cast<uint32_t>(id); }

std::string ByteToken(int byte) {
  char name[8];
  std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
  return name;
}

// A pair that may be merged: the symbol at `pos` and the one after it.
struct Candidate {
  uint32_t rank;
  int32_t pos;
  int32_t merged_id;

  // std::priority_queue gives the greatest first: the lowest rank, then the leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : pos > other.pos;
  }
};

}  // namespace

Result<BpeModel> BpeModel::Create(const std::vector<std::string>& vocab,
                                  const std::vector<std::pair<std::string, std::string>>& merges,
                                  const BpeOptions& options) {
  BpeModel model;
  model.options_ = options;
  model.token_to_id_.reserve(vocab.size());
  for (size_t i = 0; i < vocab.size(); ++i) {
    const std::string& token = vocab[i];
    const auto id = static_cast<int32_t>(i);
    if (token.empty()) continue;
    if (!model.token_to_id_.emplace(token, id).second) {
      return InvalidArgument("", "model.vocab: token \"" + token + "\" stands twice");
    }
    const Utf8Char c = ReadUtf8(token);
    if (c.state == Utf8Char::State::kValid && c.size_bytes == token.size()) {
      model.characters_.Set(0, c.code_point, {0, Unsigned(id)});
    }
  }
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const int32_t left_id = model.TokenToId(left);
    const int32_t right_id = model.TokenToId(right);
    const int32_t merged_id = model.TokenToId(left + right);
    if (left_id < 0 || right_id < 0 || merged_id < 0) {
      const std::string unknown = left_id < 0 ? left : right_id < 0 ? right : left + right;
      return InvalidArgument("", "model.merges[" + std::to_string(rank) + "]: token \"" + unknown +
                                     "\" is not in the vocabulary");
    }
    model.merges_.Set(Unsigned(left_id), Unsigned(right_id),
                      {static_cast<uint32_t>(rank), Unsigned(merged_id)});
  }
  for (int byte = 0; byte < 256; ++byte) model.byte_ids_.push_back(model.TokenToId(ByteToken(byte)));
  if (!options.unk_token.empty()) {
    model.unk_id_ = model.TokenToId(options.unk_token);
    if (model.unk_id_ < 0) {
      return InvalidArgument("", "model.unk_token: \"" + options.unk_token + "\" is not in the vocabulary");
    }
  }
  return model;
}

int32_t BpeModel::TokenToId(std::string_view token) const {
  const auto it = token_to_id_.find(token);
  return it == token_to_id_.end() ? -1 : it->second;
}

std::vector<BpeModel::Symbol> BpeModel::InitialSymbols(std::string_view word) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  const auto add = [&symbols](int32_t id) {
    const auto at = static_cast<int32_t>(symbols.size());
    if (at > 0) symbols.back().next = at;
    symbols.push_back({id, at - 1, -1, false});
  };
  const auto has_byte = [this](char byte) { return byte_ids_[static_cast<uint8_t>(byte)] >= 0; };

  // An unknown character waits here for the next known one. Bytes that come in between go before it: the
  // tokenizers package has this order, which shows only where some byte tokens are missing.
  bool unk_waits = false;
  while (!word.empty()) {
    const Utf8Char c = ReadUtf8(word);
    const std::string_view bytes = word.substr(0, c.size_bytes);
    word.remove_prefix(c.size_bytes);
    if (const PairTable::Value* known = characters_.Find(0, c.code_point)) {
      if (unk_waits) add(unk_id_);
      unk_waits = false;
      add(static_cast<int32_t>(known->second));
    } else if (options_.byte_fallback && std::all_of(bytes.begin(), bytes.end(), has_byte)) {
      for (const char byte : bytes) add(byte_ids_[static_cast<uint8_t>(byte)]);
    } else if (unk_id_ >= 0) {
      if (unk_waits && !options_.fuse_unk) add(unk_id_);
      unk_waits = true;
    }
  }
  if (unk_waits) add(unk_id_);
  return symbols;
}

void BpeModel::MergeAll(std::vector<Symbol>* symbols, BpeCounters* counters) const {
  std::vector<Symbol>& s = *symbols;
  const auto find_merge = [this, &s](int32_t left, int32_t right) {
    return merges_.Find(Unsigned(s[left].id), Unsigned(s[right].id));
  };
  std::vector<Candidate> storage;
  storage.reserve(s.size());
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(s.size()); ++i) {
    if (const auto* merge = find_merge(i, i + 1)) {
      storage.push_back({merge->first, i, static_cast<int32_t>(merge->second)});
    }
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(storage));
  const auto push = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    if (const auto* merge = find_merge(left, right)) {
      queue.push({merge->first, left, static_cast<int32_t>(merge->second)});
    }
  };

  counters->symbols += s.size();
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    ++counters->queue_pops;
    Symbol& left = s[top.pos];
    if (left.merged_away || left.next < 0) continue;
    // Either side may have been merged since; what counts, as in the tokenizers package, is the token that
    // the pair gives now.
    const int32_t next = left.next;
    const PairTable::Value* merge = find_merge(top.pos, next);
    if (merge == nullptr || static_cast<int32_t>(merge->second) != top.merged_id) continue;

    left.id = top.merged_id;
    left.next = s[next].next;
    s[next].merged_away = true;
    if (left.next >= 0) s[left.next].prev = top.pos;
    ++counters->merges;
    push(left.prev, top.pos);
    push(top.pos, left.next);
  }
}

void BpeModel::Encode(std::string_view word, std::vector<int32_t>* ids, BpeCounters* counters) const {
  if (word.empty()) return;
  if (options_.ignore_merges) {
    if (const int32_t id = TokenToId(word); id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  BpeCounters unused;
  std::vector<Symbol> symbols = InitialSymbols(word);
  MergeAll(&symbols, counters != nullptr ? counters : &unused);
  for (const Symbol& symbol : symbols) {
    if (!symbol.merged_away) ids->push_back(symbol.id);
  }
}

}  // namespace espalier
