#include <algorithm>
#include <span>

#include "engine/kv_tree.h"

// What KvTree finds and shares by content: the radix tree whose edges are in PrefixIndex.

namespace espalier {

uint64_t KvTree::IndexKey(const KvNode& of) const {
  const int64_t origin = of.parent >= 0 ? of.parent : PrefixIndex::RootOrigin(of.cache_namespace);
  return PrefixIndex::Key(origin, std::span(of.tokens).first(static_cast<size_t>(block_tokens_)));
}

bool KvTree::FullyIndexed(int32_t id) const { return id < 0 || node(id).indexed_tokens == node(id).size(); }

int32_t KvTree::FindEdge(int64_t origin, std::span<const int32_t> first_block) const {
  return index_.Find(PrefixIndex::Key(origin, first_block), [&](int32_t id) {
    const KvNode& candidate = node(id);
    const int64_t from =
        candidate.parent >= 0 ? candidate.parent : PrefixIndex::RootOrigin(candidate.cache_namespace);
    return from == origin && std::equal(first_block.begin(), first_block.end(), candidate.tokens.begin());
  });
}

// Tokens (whole blocks) of the node's indexed part that `tokens` begins with.
int32_t KvTree::MatchInNode(const KvNode& in, std::span<const int32_t> tokens) const {
  const size_t limit = std::min(static_cast<size_t>(in.indexed_tokens), tokens.size());
  const auto [a, b] =
      std::mismatch(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(limit), in.tokens.begin());
  return static_cast<int32_t>(a - tokens.begin()) / block_tokens_ * block_tokens_;
}

KvTree::Matched KvTree::Match(int32_t cache_namespace, std::span<const int32_t> tokens) const {
  const size_t block = static_cast<size_t>(block_tokens_);
  const size_t body = tokens.empty() ? 0 : (tokens.size() - 1) / block * block;
  size_t matched = 0;
  int32_t idle_blocks = 0;
  int64_t origin = PrefixIndex::RootOrigin(cache_namespace);
  while (matched < body) {
    const int32_t next = FindEdge(origin, tokens.subspan(matched, block));
    if (next < 0) break;
    const int32_t here = MatchInNode(node(next), tokens.subspan(matched, body - matched));
    matched += static_cast<size_t>(here);
    if (node(next).pins == 0) idle_blocks += here / block_tokens_;
    if (here < node(next).size()) break;
    origin = next;
  }
  return {static_cast<int32_t>(matched), idle_blocks};
}

KvTree::OpenedPath KvTree::OpenPath(int32_t cache_namespace, std::span<const int32_t> tokens,
                                    int32_t private_from) {
  ESPALIER_CHECK(!tokens.empty());
  const size_t block = static_cast<size_t>(block_tokens_);
  const size_t shared = std::min(tokens.size() - 1, static_cast<size_t>(std::max(private_from, 0)));
  const size_t body = shared / block * block;
  size_t matched = 0;
  int32_t parent = -1;
  while (matched < body) {
    const int64_t origin = parent >= 0 ? parent : PrefixIndex::RootOrigin(cache_namespace);
    const int32_t next = FindEdge(origin, tokens.subspan(matched, block));
    if (next < 0) break;
    const int32_t here = MatchInNode(node(next), tokens.subspan(matched, body - matched));
    matched += static_cast<size_t>(here);
    const bool whole_node = here == node(next).size();
    parent = whole_node ? next : Split(next, here);
    if (!whole_node) break;
  }
  const int32_t cached = static_cast<int32_t>(matched);
  if (matched < body) {
    const int32_t promised =
        NewNode(parent, cache_namespace, cached, tokens.subspan(matched, body - matched));
    at(promised).indexed_tokens = at(promised).size();
    index_.Insert(IndexKey(at(promised)), promised);
    parent = promised;
  }
  const int32_t tail = NewNode(parent, cache_namespace, static_cast<int32_t>(body), tokens.subspan(body));
  at(tail).holders = 1;
  Pin(tail);
  return {tail, cached};
}

bool KvTree::PromiseTail(int32_t tail, int32_t private_from) {
  const KvNode& whole = node(tail);
  ESPALIER_CHECK(whole.holders == 1 && whole.known_tokens == whole.size());
  const int32_t shared = std::min(whole.size() - 1, private_from - whole.begin_position);
  const int32_t body = shared / block_tokens_ * block_tokens_;
  if (body <= 0 || whole.indexed_tokens > 0 || !FullyIndexed(whole.parent)) return false;
  const int64_t origin = whole.parent >= 0 ? whole.parent : PrefixIndex::RootOrigin(whole.cache_namespace);
  if (FindEdge(origin, std::span(whole.tokens).first(static_cast<size_t>(block_tokens_))) >= 0) return false;
  const int32_t promised = Split(tail, body);
  at(promised).indexed_tokens = body;
  index_.Insert(IndexKey(at(promised)), promised);
  return true;
}

void KvTree::IndexTail(int32_t tail, bool final) {
  IndexTokens(tail, final ? node(tail).size() : node(tail).size() - 1);
}

// Lets the index cover the whole blocks of the first `tokens` tokens, as far as they are known and issued.
void KvTree::IndexTokens(int32_t id, int32_t tokens) {
  KvNode& grown = at(id);
  const int32_t whole =
      std::min({tokens, grown.known_tokens, grown.issued_tokens}) / block_tokens_ * block_tokens_;
  if (whole <= grown.indexed_tokens) return;
  if (grown.indexed_tokens == 0) {
    if (!FullyIndexed(grown.parent)) return;
    const int64_t origin = grown.parent >= 0 ? grown.parent : PrefixIndex::RootOrigin(grown.cache_namespace);
    const auto first_block = std::span(grown.tokens).first(static_cast<size_t>(block_tokens_));
    if (FindEdge(origin, first_block) >= 0) return;
    index_.Insert(IndexKey(grown), id);
  }
  grown.indexed_tokens = whole;
}

}  // namespace espalier
