#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "engine/scheduler_impl.h"
#include "engine/tree_cost.h"

namespace espalier {

Scheduler::Scheduler(SchedulerOptions options, std::shared_ptr<const Tokenizer> tokenizer)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(tokenizer))) {}
Scheduler::~Scheduler() = default;
std::shared_ptr<ScheduledRequest> Scheduler::Prepare(TreeRequest request) const {
  return impl_->Prepare(std::move(request));
}
void Scheduler::Submit(uint64_t id, std::shared_ptr<ScheduledRequest> request) {
  impl_->Submit(id, std::move(request));
}
void Scheduler::Abort(uint64_t id, const Error& reason) { impl_->Abort(id, reason); }
void Scheduler::FailAll(const Error& error) { impl_->FailAll(error); }
std::shared_ptr<const StepInput> Scheduler::Next() { return impl_->Next(); }
void Scheduler::Commit(const StepResult& result) { impl_->Commit(result); }
std::vector<RequestEvent> Scheduler::TakeEvents() { return impl_->TakeEvents(); }
int32_t Scheduler::steps_in_flight() const { return impl_->steps_in_flight(); }
bool Scheduler::growing() const { return impl_->growing(); }
void Scheduler::SetUnread(const std::string& peer, int32_t answers) { impl_->SetUnread(peer, answers); }
bool Scheduler::idle() const { return impl_->idle(); }
EngineStats Scheduler::Stats() const { return impl_->Stats(); }
TreeSnapshot Scheduler::Snapshot() const { return impl_->Snapshot(); }
void Scheduler::SetAttentionMode(AttentionMode mode) { impl_->SetAttentionMode(mode); }
int32_t Scheduler::FlushCache() { return impl_->FlushCache(); }
std::vector<int32_t> Scheduler::FreeBlocks() const { return impl_->FreeBlocks(); }
Status Scheduler::CheckInvariants() const { return impl_->CheckInvariants(); }

Scheduler::Impl::Impl(SchedulerOptions options, std::shared_ptr<const Tokenizer> tokenizer)
    : options_(std::move(options)),
      tokenizer_(std::move(tokenizer)),
      context_{tokenizer_.get(), options_.eos_token_ids, options_.max_path_tokens},
      allocator_(options_.engine.total_blocks),
      tree_(&allocator_, options_.engine.block_tokens),
      builder_(&tree_, options_.shuffle_seed) {
  ESPALIER_CHECK(options_.steps_in_flight == 1 || options_.steps_in_flight == 2);
  ESPALIER_CHECK(options_.engine.max_batch_rows > 0 && options_.engine.prefill_chunk_tokens > 0);
  SetAttentionMode(options_.engine.attention_mode);
}

// Life of requests.

std::shared_ptr<ScheduledRequest> Scheduler::Impl::Prepare(TreeRequest request) const {
  const int32_t first_rows = FirstBranches(request);
  auto prepared = std::make_shared<Request>(std::move(request), &context_);
  prepared->first_rows = first_rows;
  return prepared;
}

void Scheduler::Impl::Submit(uint64_t id, std::shared_ptr<ScheduledRequest> submitted) {
  ESPALIER_CHECK(requests_.empty() || requests_.rbegin()->first < id);
  submitted->id = id;
  const TreeRequest& content = submitted->tree.request();
  submitted->space =
      content.cache_bypass ? tree_.AcquirePrivateSpace() : tree_.AcquireSpace(content.cache_namespace);
  const auto& root = std::get<GivenSpec>(content.nodes[0].content);
  submitted->wanted_blocks = static_cast<int32_t>(root.token_ids.size()) / options_.engine.block_tokens + 2;
  submitted->peer = peers_.Submit(content.peer, id);
  requests_.emplace(id, std::move(submitted));
}

void Scheduler::Impl::Abort(uint64_t id, const Error& reason) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  Emit(id, reason);
  ++counters_.cancelled;
  End(it);
}

void Scheduler::Impl::FailAll(const Error& error) {
  failed_ = true;
  while (!requests_.empty()) {
    Emit(requests_.begin()->first, error);
    End(requests_.begin());
  }
}

// Releases all that the request holds. Steps in flight may still compute for it: their results find no
// request, and its blocks retire after them.
void Scheduler::Impl::End(Requests::iterator it) {
  Request& ending = *it->second;
  while (!ending.in_memory.empty()) DropLeaf(&ending, &ending.tree.branch(*ending.in_memory.begin()));
  for (int32_t number = 0; number < ending.tree.size(); ++number) EndSlot(&ending.tree.branch(number));
  peers_.End(ending.peer, ending.id, ending.wanted_blocks, ending.admitted);
  tree_.ReleaseSpace(ending.space);
  if (found_ == &ending) found_ = nullptr;
  requests_.erase(it);
}

// New branches and runs: those with rows to run go to the work list, given branches are reported.
void Scheduler::Impl::NoteCreated(Request* request, const std::vector<int32_t>& created) {
  for (const int32_t number : created) {
    Branch& branch = request->tree.branch(number);
    if (request->tree.given(branch) != nullptr) {
      request->usage.prompt_tokens += branch.size();
      if (number > 0 && (!branch.scored || branch.finished)) ReportGiven(request, branch);
    } else if (branch.finished) {
      DeltaOf(request, branch)->finish_reason = branch.reason;
    }
    Reconsider(request, &branch);
  }
  for (const int32_t number : request->tree.TakeNewRuns()) Reconsider(request, &request->tree.branch(number));
}

// Reports.

EngineStats Scheduler::Impl::Stats() const {
  EngineStats stats = counters_;
  stats.block_tokens = options_.engine.block_tokens;
  stats.blocks_total = allocator_.total_blocks();
  stats.blocks_free = allocator_.free_blocks();
  stats.blocks_indexed = tree_.indexed_blocks();
  stats.blocks_live = tree_.live_blocks() + allocator_.retiring_blocks();
  stats.requests_active = static_cast<int32_t>(requests_.size());
  stats.requests_queued = peers_.waiting();
  stats.peers_active = peers_.active();
  stats.branches_active = running_;
  stats.evicted_blocks = tree_.evicted_blocks();
  return stats;
}

TreeSnapshot Scheduler::Impl::Snapshot() const {
  TreeSnapshot snapshot;
  for (int32_t id = 0; id < tree_.node_slots(); ++id) {
    const KvNode& node = tree_.node(id);
    if (!node.alive) continue;
    KvNodeSnapshot& seen = snapshot.nodes.emplace_back();
    seen.id = id;
    seen.parent = node.parent;
    seen.begin_position = node.begin_position;
    seen.tokens = node.size();
    seen.computed_tokens = tree_.ComputedTokens(id);
    seen.blocks = static_cast<int32_t>(node.blocks.size());
    seen.pins = node.pins;
    seen.indexed = node.indexed_tokens > 0;
    const int32_t shown = std::min(node.known_tokens, 16);
    seen.first_token_ids.assign(node.tokens.begin(), node.tokens.begin() + shown);
  }
  // A node begins where its parent ends, and no inner node is empty.
  std::sort(snapshot.nodes.begin(), snapshot.nodes.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin_position, a.id) < std::pair(b.begin_position, b.id);
  });
  return snapshot;
}

int32_t Scheduler::Impl::FlushCache() { return tree_.Evict(allocator_.total_blocks()); }

}  // namespace espalier
