#include "engine/kv_tree.h"

#include <algorithm>
#include <utility>

namespace espalier {

namespace {

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

// Watermark after the steps up to `committed`; merges their marks.
void MergeMarks(KvNode* node, uint64_t committed) {
  int32_t kept = 0;
  for (int32_t i = 0; i < node->mark_count; ++i) {
    const auto& mark = node->marks[static_cast<size_t>(i)];
    if (mark.first <= committed) {
      node->committed_tokens = mark.second;
    } else {
      node->marks[static_cast<size_t>(kept++)] = mark;
    }
  }
  node->mark_count = kept;
}

// Caps all watermarks at `tokens`.
void CapWatermarks(KvNode* node, int32_t tokens) {
  node->known_tokens = std::min(node->known_tokens, tokens);
  node->issued_tokens = std::min(node->issued_tokens, tokens);
  node->issued_before_step = std::min(node->issued_before_step, tokens);
  node->indexed_tokens = std::min(node->indexed_tokens, tokens);
  node->committed_tokens = std::min(node->committed_tokens, tokens);
  for (auto& mark : node->marks) mark.second = std::min(mark.second, tokens);
}

// Lowers all watermarks by `tokens`, to 0 at least.
void ShiftWatermarks(KvNode* node, int32_t tokens) {
  const auto lower = [&](int32_t* watermark) { *watermark = std::max(*watermark - tokens, 0); };
  lower(&node->known_tokens);
  lower(&node->issued_tokens);
  lower(&node->issued_before_step);
  lower(&node->indexed_tokens);
  lower(&node->committed_tokens);
  for (auto& mark : node->marks) lower(&mark.second);
}

}  // namespace

KvTree::KvTree(BlockAllocator* allocator, int32_t block_tokens)
    : allocator_(allocator), block_tokens_(block_tokens) {
  ESPALIER_CHECK(block_tokens > 0);
}

// Cache namespaces.

int32_t KvTree::AcquireCacheNamespace(const std::string& name) {
  const auto found = cache_namespace_names_.find(name);
  if (found != cache_namespace_names_.end()) {
    ++cache_namespaces_.at(found->second).users;
    return found->second;
  }
  const int32_t cache_namespace = next_cache_namespace_++;
  cache_namespaces_[cache_namespace] = {.name = name, .is_private = false, .users = 1, .nodes = 0};
  cache_namespace_names_[name] = cache_namespace;
  return cache_namespace;
}

int32_t KvTree::AcquirePrivateCacheNamespace() {
  const int32_t cache_namespace = next_cache_namespace_++;
  cache_namespaces_[cache_namespace] = {.name = {}, .is_private = true, .users = 1, .nodes = 0};
  return cache_namespace;
}

void KvTree::ReleaseCacheNamespace(int32_t cache_namespace) {
  CacheNamespace& entry = cache_namespaces_.at(cache_namespace);
  --entry.users;
  if (entry.is_private) RemoveUnpinned(cache_namespace);
  DropCacheNamespaceIfUnused(cache_namespace);
}

// All nodes of a private cache namespace that no branch uses. Takes time for those alone.
void KvTree::RemoveUnpinned(int32_t cache_namespace) {
  for (auto found = cache_namespaces_.find(cache_namespace);
       found != cache_namespaces_.end() && !found->second.evictable.empty();
       found = cache_namespaces_.find(cache_namespace)) {
    ++looked_at_;
    RemoveNode(found->second.evictable.begin()->second);
  }
}

// Enters the node among those that can be evicted, or takes it out.
void KvTree::SetEvictable(int32_t id, bool evictable) {
  const std::pair<uint64_t, int32_t> entry(node(id).last_use, id);
  CacheNamespace& cache_namespace = cache_namespaces_.at(node(id).cache_namespace);
  for (Evictable* list : {&evictable_, cache_namespace.is_private ? &cache_namespace.evictable : nullptr}) {
    if (list == nullptr) continue;
    if (evictable) {
      list->insert(entry);
    } else {
      list->erase(entry);
    }
  }
}

void KvTree::DropCacheNamespaceIfUnused(int32_t cache_namespace) {
  const auto it = cache_namespaces_.find(cache_namespace);
  if (it == cache_namespaces_.end()) return;  // went with the last of its nodes
  if (it->second.users > 0 || it->second.nodes > 0) return;
  if (!it->second.is_private) cache_namespace_names_.erase(it->second.name);
  cache_namespaces_.erase(it);
}

// Nodes.

int32_t KvTree::NewNode(int32_t parent, int32_t cache_namespace, int32_t begin_position,
                        std::span<const int32_t> tokens) {
  int32_t id = 0;
  if (free_nodes_.empty()) {
    id = node_capacity();
    nodes_.emplace_back();
  } else {
    id = free_nodes_.back();
    free_nodes_.pop_back();
  }
  KvNode& created = at(id);
  created = KvNode{};
  created.alive = true;
  created.parent = parent;
  created.cache_namespace = cache_namespace;
  created.begin_position = begin_position;
  created.tokens.assign(tokens.begin(), tokens.end());
  const auto unknown = std::find(created.tokens.begin(), created.tokens.end(), kUnknownToken);
  created.known_tokens = static_cast<int32_t>(unknown - created.tokens.begin());
  ++cache_namespaces_.at(cache_namespace).nodes;
  if (parent >= 0) {
    KvNode& above = at(parent);
    if (above.pins == 0 && above.children == 0) SetEvictable(parent, false);
    ++above.children;
  }
  return id;
}

// Precondition: unpinned, no children. Leaves the parent finalized.
void KvTree::RemoveNode(int32_t id) {
  KvNode& gone = at(id);
  ESPALIER_CHECK(gone.alive && gone.pins == 0 && gone.children == 0);
  SetEvictable(id, false);
  if (gone.indexed_tokens > 0) index_.Erase(IndexKey(gone), id);
  gone.indexed_tokens = 0;
  TrimBlocks(id, 0);
  gone.alive = false;
  gone.tokens = {};
  gone.blocks = {};
  const int32_t parent = gone.parent;
  const int32_t cache_namespace = gone.cache_namespace;
  free_nodes_.push_back(id);
  --cache_namespaces_.at(cache_namespace).nodes;
  if (parent >= 0) {
    --at(parent).children;
    if (at(parent).pins == 0 && at(parent).children == 0) Finalize(parent);
  } else {
    DropCacheNamespaceIfUnused(cache_namespace);
  }
}

int32_t KvTree::Split(int32_t id, int32_t tokens) {
  ESPALIER_CHECK(tokens > 0 && tokens % block_tokens_ == 0 && tokens <= node(id).known_tokens);
  const int32_t parent = node(id).parent;
  const int32_t upper_id = NewNode(parent, node(id).cache_namespace, node(id).begin_position,
                                   std::span(node(id).tokens).first(tokens));
  KvNode& upper = at(upper_id);
  KvNode& lower = at(id);
  if (parent >= 0) --at(parent).children;  // the upper part takes the place of the whole
  if (lower.indexed_tokens > 0) {
    const uint64_t key = IndexKey(lower);
    index_.Erase(key, id);
    index_.Insert(key, upper_id);
  }
  const size_t upper_blocks =
      std::min(lower.blocks.size(), static_cast<size_t>(tokens) / static_cast<size_t>(block_tokens_));
  const auto cut = lower.blocks.begin() + static_cast<ptrdiff_t>(upper_blocks);
  upper.blocks.assign(lower.blocks.begin(), cut);
  lower.blocks.erase(lower.blocks.begin(), cut);

  upper.known_tokens = lower.known_tokens;
  upper.issued_tokens = lower.issued_tokens;
  upper.issued_before_step = lower.issued_before_step;
  upper.indexed_tokens = lower.indexed_tokens;
  upper.committed_tokens = lower.committed_tokens;
  upper.marks = lower.marks;
  upper.mark_count = lower.mark_count;
  upper.touched_step = lower.touched_step;
  upper.last_use = lower.last_use;
  upper.last_step = lower.last_step;
  CapWatermarks(&upper, tokens);
  ShiftWatermarks(&lower, tokens);
  if (current_step_ > 0 && lower.touched_step == current_step_) touched_.push_back(upper_id);

  upper.children = 1;
  upper.pins = lower.pins > 0 ? 1 : 0;
  lower.parent = upper_id;
  lower.begin_position += tokens;
  lower.tokens.erase(lower.tokens.begin(), lower.tokens.begin() + tokens);
  if (lower.indexed_tokens > 0) index_.Insert(IndexKey(lower), id);
  return upper_id;
}

// Forks and growth.

int32_t KvTree::ForkBlocks(int32_t tail, int32_t keep_end) const {
  return (keep_end - node(tail).begin_position) % block_tokens_ == 0 ? 0 : 1;
}

int32_t KvTree::ForkTail(int32_t tail, int32_t keep_end, StepMemory* memory) {
  ESPALIER_CHECK(node(tail).holders == 1 && node(tail).children == 0);
  const int32_t keep = keep_end - node(tail).begin_position;
  ESPALIER_CHECK(keep >= 0 && keep <= node(tail).issued_tokens);
  ESPALIER_CHECK(node(tail).touched_step != current_step_ || keep <= node(tail).issued_before_step);
  const int32_t border = keep / block_tokens_ * block_tokens_;
  if (border > 0) {
    const int32_t upper = Split(tail, border);
    IndexTokens(upper, border);
  }
  const KvNode& source = node(tail);
  const int32_t copied = keep - border;
  const int32_t fork = NewNode(source.parent, source.cache_namespace, source.begin_position, source.tokens);
  at(fork).holders = 1;
  Pin(fork);
  if (copied > 0) {
    AllocateBlock(fork, memory);
    memory->copies.push_back({node(tail).blocks[0], node(fork).blocks[0], copied});
    KvNode& created = at(fork);
    created.issued_tokens = copied;
    created.issued_before_step = copied;
    created.marks[0] = {current_step_, copied};
    created.mark_count = 1;
  }
  return fork;
}

void KvTree::Append(int32_t tail, int32_t token_or_unknown) {
  KvNode& grown = at(tail);
  if (token_or_unknown != kUnknownToken) {
    ESPALIER_CHECK(grown.known_tokens == grown.size());
    ++grown.known_tokens;
  }
  grown.tokens.push_back(token_or_unknown);
}

void KvTree::SetToken(int32_t tail, int32_t position, int32_t token) {
  KvNode& grown = at(tail);
  ESPALIER_CHECK(position == grown.begin_position + grown.known_tokens && grown.known_tokens < grown.size());
  grown.tokens[static_cast<size_t>(grown.known_tokens++)] = token;
}

void KvTree::Truncate(int32_t tail, int32_t end_position) {
  KvNode& cut = at(tail);
  const int32_t tokens = end_position - cut.begin_position;
  ESPALIER_CHECK(tokens >= cut.indexed_tokens && tokens <= cut.size() && cut.children == 0);
  cut.tokens.resize(static_cast<size_t>(tokens));
  CapWatermarks(&cut, tokens);
  TrimBlocks(tail, CeilDiv(tokens, block_tokens_));
}

void KvTree::Reissue(int32_t tail, int32_t position) {
  KvNode& again = at(tail);
  const int32_t tokens = position - again.begin_position;
  ESPALIER_CHECK(tokens >= 0 && tokens <= again.issued_tokens && tokens >= again.indexed_tokens);
  ESPALIER_CHECK(again.touched_step != current_step_ || again.issued_before_step == again.issued_tokens);
  again.issued_tokens = tokens;
  again.issued_before_step = std::min(again.issued_before_step, tokens);
  again.committed_tokens = std::min(again.committed_tokens, tokens);
  for (auto& mark : again.marks) mark.second = std::min(mark.second, tokens);
}

// Rows.

int32_t KvTree::BlocksForRows(int32_t id, int32_t rows) const {
  const int32_t needed = CeilDiv(node(id).issued_tokens + rows, block_tokens_);
  return std::max(needed - static_cast<int32_t>(node(id).blocks.size()), 0);
}

void KvTree::IssueRows(int32_t id, int32_t rows, StepMemory* memory) {
  for (int32_t count = BlocksForRows(id, rows); count > 0; --count) AllocateBlock(id, memory);
  KvNode& run = at(id);
  ESPALIER_CHECK(rows > 0 && run.issued_tokens + rows <= run.size());
  if (run.touched_step != current_step_) {
    run.touched_step = current_step_;
    run.issued_before_step = run.issued_tokens;
    touched_.push_back(id);
  }
  run.issued_tokens += rows;
  MergeMarks(&run, committed_step_);
  if (run.mark_count > 0 && run.marks[static_cast<size_t>(run.mark_count - 1)].first == current_step_) {
    run.marks[static_cast<size_t>(run.mark_count - 1)].second = run.issued_tokens;
  } else {
    ESPALIER_CHECK(run.mark_count < static_cast<int32_t>(run.marks.size()));
    run.marks[static_cast<size_t>(run.mark_count++)] = {current_step_, run.issued_tokens};
  }
}

int32_t KvTree::ComputedTokens(int32_t id) const {
  KvNode copy;
  copy.marks = node(id).marks;
  copy.mark_count = node(id).mark_count;
  copy.committed_tokens = node(id).committed_tokens;
  MergeMarks(&copy, committed_step_);
  return copy.committed_tokens;
}

void KvTree::AllocateBlock(int32_t id, StepMemory* memory) {
  const int32_t block = allocator_->Allocate();
  at(id).blocks.push_back(block);
  memory->zero_blocks.push_back(block);
  ++owned_blocks_;
  if (at(id).pins > 0) ++live_blocks_;
}

// Use and eviction.

void KvTree::Pin(int32_t id) {
  while (id >= 0) {
    KvNode& used = at(id);
    if (++used.pins > 1) return;
    live_blocks_ += static_cast<int32_t>(used.blocks.size());
    if (used.children == 0) SetEvictable(id, false);
    id = used.parent;
  }
}

void KvTree::Unpin(int32_t id, bool cold) {
  ++tick_;
  while (id >= 0) {
    KvNode& unused = at(id);
    const int32_t parent = unused.parent;
    if (--unused.pins > 0) return;
    live_blocks_ -= static_cast<int32_t>(unused.blocks.size());
    unused.last_use = std::exchange(cold, false) ? 0 : tick_;
    unused.last_step = current_step_;
    if (unused.children == 0) Finalize(id);
    id = parent;
  }
}

void KvTree::Finalize(int32_t id) {
  KvNode& unused = at(id);
  const int32_t keep = std::min(unused.indexed_tokens, unused.issued_tokens) / block_tokens_ * block_tokens_;
  if (keep == 0) {
    RemoveNode(id);
    return;
  }
  unused.tokens.resize(static_cast<size_t>(keep));
  CapWatermarks(&unused, keep);
  TrimBlocks(id, keep / block_tokens_);
  SetEvictable(id, true);
}

void KvTree::TrimBlocks(int32_t id, int32_t keep_blocks) {
  KvNode& trimmed = at(id);
  const uint64_t last_step = trimmed.pins > 0 ? current_step_ : std::min(trimmed.last_step, current_step_);
  while (static_cast<int32_t>(trimmed.blocks.size()) > keep_blocks) {
    allocator_->Free(trimmed.blocks.back(), last_step);
    trimmed.blocks.pop_back();
    --owned_blocks_;
    if (trimmed.pins > 0) --live_blocks_;
  }
}

void KvTree::Release(int32_t tail, bool cold) {
  ESPALIER_CHECK(node(tail).alive && node(tail).holders == 1);
  IndexTail(tail, true);
  at(tail).holders = 0;
  Unpin(tail, cold);
}

int32_t KvTree::Evict(int32_t blocks) {
  int32_t freed = 0;
  while (freed < blocks && !evictable_.empty()) {
    const int32_t id = evictable_.begin()->second;
    KvNode& oldest = at(id);
    const int32_t count = static_cast<int32_t>(oldest.blocks.size());
    const int32_t take = std::min(count, blocks - freed);
    freed += take;
    if (take == count) {
      RemoveNode(id);
      continue;
    }
    const int32_t keep = (count - take) * block_tokens_;
    oldest.tokens.resize(static_cast<size_t>(keep));
    CapWatermarks(&oldest, keep);
    TrimBlocks(id, count - take);
  }
  evicted_blocks_ += freed;
  return freed;
}

// Steps.

void KvTree::BeginStep(uint64_t step) {
  ESPALIER_CHECK(step == current_step_ + 1);
  current_step_ = step;
  touched_.clear();
}

void KvTree::EndStep(bool issued) {
  if (issued) return;
  ESPALIER_CHECK(touched_.empty());
  --current_step_;
  allocator_->AbandonStepsAfter(current_step_);
}

void KvTree::CommitStep(uint64_t step) {
  committed_step_ = step;
  allocator_->CommitStep(step);
}

}  // namespace espalier
