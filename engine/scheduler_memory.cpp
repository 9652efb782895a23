#include <algorithm>
#include <limits>
#include <utility>

#include "engine/scheduler_impl.h"

// Who holds blocks: admission, leaves, and what gives way when blocks run out.

namespace espalier {

// Requests are admitted peer by peer: those first whose peer has the fewest that run, then by age; and none
// overtakes one that waits for blocks, but to take what its peer may claim. Those that find no rows to spare
// are begun all the same, up to kMostBegun in all and while half of the pool is left: first tokens come with
// the prompt's rows, which have to be run in any case; what follows waits for its turn (CollectCandidates). A
// preempted request waits until the blocks that it had are there again. The oldest of all is always admitted:
// it can always run.
void Scheduler::Impl::AdmitRequests() {
  constexpr size_t kMostBegun = 128;
  if (!requests_.empty() && !requests_.begin()->second->admitted)
    StartRequest(requests_.begin()->second.get());
  bool overtakes = false;
  for (auto head = peers_.heads().begin(); head != peers_.heads().end();) {
    Request* request = requests_.at(head->id).get();
    const bool ahead = !HasTurn(*request);
    if (ahead && (overtakes || turns_.size() >= kMostBegun)) return;  // and so for all behind it
    const bool has_room = !overtakes && HasRoomFor(*request, ahead);
    if (has_room || (!ahead && MayBeginByClaim(*request))) {
      StartRequest(request);
      if (!has_room) ClaimToBegin(request);
      head = peers_.heads().begin();
      overtakes = false;
    } else {
      overtakes = true;
      ++head;
    }
  }
}

bool Scheduler::Impl::HasRoomFor(const Request& request, bool ahead) const {
  const int32_t left = ahead ? std::max(running_, allocator_.total_blocks() / 2) : running_;
  return AvailableBlocks() >= request.wanted_blocks + left;
}

void Scheduler::Impl::StartRequest(Request* request) {
  turns_.push_back({peers_.running(request->peer), request->id, request, request->first_rows});
  peers_.Admit(request->peer, request->id, request->wanted_blocks);
  request->admitted = true;
  if (request->started) return;
  request->started = true;
  const TreeRequest& content = request->tree.request();
  const auto& root = std::get<GivenSpec>(content.nodes[0].content);
  Emit(request->id,
       TreeStarted{.request_id = request->id,
                   .seed = content.seed,
                   .prompt_tokens = static_cast<int32_t>(root.token_ids.size()),
                   .cached_tokens = tree_.Match(request->space, root.token_ids).tokens,
                   .prompt_token_ids = content.return_prompt_ids ? root.token_ids : std::vector<int32_t>{}});
  std::vector<int32_t> created;
  request->tree.Start(&created);
  NoteCreated(request, created);
}

// Free now, or as soon as steps in flight have committed and cold prefixes are evicted.
int32_t Scheduler::Impl::AvailableBlocks() const {
  return allocator_.free_blocks() + allocator_.retiring_blocks() + tree_.indexed_blocks();
}

// Gives the branch a leaf. Where nothing else of the request runs, it may take what it needs; otherwise it
// waits until there is room for it in addition to all that runs. False: not in this step.
bool Scheduler::Impl::StartBranch(Request* request, Branch* branch, StepDraft* draft) {
  const bool forced = request->running == 0;
  Branch* source = SourceOf(request, *branch);
  if (source != nullptr && Wants(request->tree, *source)) return false;  // its own rows come first
  // Blocks beyond the copy of the source's last one. What is generated takes them as it grows.
  const int32_t blocks = 1 + (branch->run == nullptr ? 0 : branch->size() / options_.engine.block_tokens);
  if (!forced && AvailableBlocks() < blocks + running_ && !MayClaim(*request, blocks)) return NoRoom(request);
  bool started = false;
  if (source != nullptr && source->leaf >= 0 && source->last_step == tree_.current_step())
    return false;  // copies read what earlier steps wrote
  if (source != nullptr && source->leaf >= 0 && KeptEnd(*request, *branch, *source) >= 0 &&
      (branch->run == nullptr || !CachedBeyond(*request, *branch, *source))) {
    started = ContinueSource(request, branch, source, draft);
    if (!started && source->leaf >= 0) return NoRoom(request);  // for the copy
  }
  if (!started && !OpenByTokens(request, branch, forced)) return false;
  branch->cached_counted = true;
  ++request->running;
  DropClaim(request, branch);
  return true;
}

// What the branch continues: its source, or what that continues where it never had a leaf, because it ended
// with its first token. Null: it is opened by its tokens.
Branch* Scheduler::Impl::SourceOf(Request* request, const Branch& branch) const {
  Branch* source = branch.source >= 0 ? &request->tree.branch(branch.source) : nullptr;
  while (source != nullptr && source->leaf < 0 && source->claims_source && !Wants(request->tree, *source))
    source = &request->tree.branch(source->source);
  return source;
}

// Nothing else will continue the source.
bool Scheduler::Impl::IsLastOf(const Request& request, const Branch& branch, const Branch& source) const {
  const Branch* at = &branch;
  while (at != &source) {
    const Branch& next = request.tree.branch(at->source);
    if (!at->claims_source || next.continuations != 1 || next.barriers > 0) return false;
    at = &next;
  }
  return true;
}

bool Scheduler::Impl::NoRoom(Request* request) {
  request->no_room = true;
  return false;
}

// Up to which position the rows of the source's leaf serve the branch: to the source's end, but a run may
// need the logits of the source's last token. -1: the leaf cannot be continued from there.
int32_t Scheduler::Impl::KeptEnd(const Request& request, const Branch& branch, const Branch& source) const {
  const KvNode& leaf = tree_.node(source.leaf);
  int32_t wanted = source.end_position();
  if (branch.run != nullptr)
    wanted = std::min({wanted, request.tree.NextUsePosition(branch), branch.end_position() - 1});
  const int32_t kept = std::min(leaf.issued_end(), wanted);
  return kept < leaf.begin_position + leaf.indexed_tokens ? -1 : kept;
}

// Whether the index holds more of the run's path, in whole blocks, than the source's leaf does.
bool Scheduler::Impl::CachedBeyond(const Request& request, const Branch& run, const Branch& source) const {
  const int32_t block = tree_.block_tokens();
  const int32_t usable = std::min(request.tree.NextUsePosition(run), run.end_position() - 1);
  if (usable / block <= source.end_position() / block) return false;
  return tree_.Match(request.space, request.tree.PathTokens(run)).tokens > source.end_position();
}

// Takes the source's leaf over, or forks it, and adds the branch's tokens beyond it. False: there is no block
// for the copy, or the leaf had to be dropped for it.
bool Scheduler::Impl::ContinueSource(Request* request, Branch* branch, Branch* source, StepDraft* draft) {
  const int32_t keep_end = KeptEnd(*request, *branch, *source);
  int32_t leaf = source->leaf;
  if (IsLastOf(*request, *branch, *source)) {
    if (keep_end < tree_.node(leaf).issued_end()) tree_.Reissue(leaf, keep_end);
    TakeLeaf(request, source);
  } else {
    const int32_t blocks = std::max(tree_.ForkBlocks(leaf, keep_end), 1);
    if (!MakeRoom(request, *branch, blocks) || source->leaf < 0) return false;
    const int32_t live_before = tree_.live_blocks();
    leaf = tree_.ForkLeaf(leaf, keep_end, &draft->memory);
    NoteHeld(*request, live_before);
  }
  for (const int32_t token : request->tree.PathTokens(*branch, tree_.node(leaf).end_position()))
    tree_.Append(leaf, token);
  for (int32_t i = branch->size(); i < branch->drawn; ++i) tree_.Append(leaf, kUnknownToken);
  branch->path_issued = true;
  // Others find a long run while it is computed; short ones are not worth a node more.
  constexpr int32_t kPromisedBlocks = 4;
  if (branch->run != nullptr && branch->size() >= kPromisedBlocks * tree_.block_tokens())
    branch->path_issued = !tree_.PromiseLeaf(leaf, request->tree.NextUsePosition(*branch));
  GiveLeaf(request, branch, leaf);
  return true;
}

bool Scheduler::Impl::OpenByTokens(Request* request, Branch* branch, bool forced) {
  if (request->tree.generate(*branch) != nullptr && branch->drawn > branch->size()) return false;
  const std::vector<int32_t> path = request->tree.PathTokens(*branch);
  const int32_t blocks = static_cast<int32_t>(path.size()) / options_.engine.block_tokens + 1;
  if (!forced) {
    const KvTree::Matched matched = tree_.Match(request->space, path);
    const int32_t needed = blocks - matched.tokens / options_.engine.block_tokens + matched.idle_blocks;
    if (AvailableBlocks() < needed + running_ && !MayClaim(*request, needed)) return NoRoom(request);
  }
  int32_t private_from = std::numeric_limits<int32_t>::max();
  if (branch->run != nullptr) private_from = request->tree.NextUsePosition(*branch);
  const int32_t live_before = tree_.live_blocks();
  const KvTree::OpenedPath opened = tree_.OpenPath(request->space, path, private_from);
  NoteHeld(*request, live_before);
  GiveLeaf(request, branch, opened.leaf);
  branch->path_issued = false;
  if (branch->run != nullptr && !branch->cached_counted) CountCached(request, branch, opened.cached_tokens);
  return true;
}

// Of the given branches' tokens in the run, once.
void Scheduler::Impl::CountCached(Request* request, Branch* run, int32_t cached_tokens) {
  const int32_t cached = request->tree.GivenTokensBefore(*run, cached_tokens);
  request->usage.cached_tokens += cached;
  counters_.cached_tokens += cached;
}

// Sees to it that `blocks` blocks are free. In this order: evict cold prefixes; wait for blocks that steps in
// flight still read; then others give way. False: not in this step; where the request may take blocks from
// others, it comes first in the next. So does the oldest where it has had no row for a while: else others
// might take, step after step, what was given up for it.
bool Scheduler::Impl::MakeRoom(Request* request, const Branch& branch, int32_t blocks) {
  while (allocator_.free_blocks() < blocks) {
    if (tree_.Evict(blocks - allocator_.free_blocks()) > 0) continue;
    const bool awaited = allocator_.free_blocks() + allocator_.retiring_blocks() >= blocks;
    if (!awaited && TakeRoom(*request, branch, blocks)) continue;
    request->comes_first =
        MayClaim(*request, blocks) || IsLastOfOldest(*request, branch) || IsStarvedOldest(*request);
    return false;
  }
  request->comes_first = false;
  return true;
}

// One thing gives way. In this order: what peers hold beyond their share; leaves that nothing runs on;
// younger requests; later branches of the same request; for the oldest request, anything. Nothing that has
// rows in the step being planned is touched.
bool Scheduler::Impl::TakeRoom(const Request& request, const Branch& branch, int32_t blocks) {
  return ClaimBlocks(request, blocks) || DropIdleLeaf(request, branch, blocks) ||
         PreemptYounger(request, blocks) || ParkHigherBranch(request, branch) ||
         PreemptForOldest(request, branch);
}

void Scheduler::Impl::ListIdleLeaves() {
  if (std::exchange(idle_leaves_listed_, true)) return;
  idle_leaves_.clear();
  for (auto& [id, holder] : requests_) {
    for (const int32_t number : holder->in_memory) {
      Branch& idle = holder->tree.branch(number);
      if (idle.last_step == tree_.current_step() || Wants(holder->tree, idle)) continue;
      if (holder->tree.generate(idle) != nullptr && !idle.finished)
        continue;  // its last tokens are under way
      idle_leaves_.push_back({holder.get(), &idle});
    }
  }
}

// Of the youngest request first, not of older ones; the source of the branch last.
bool Scheduler::Impl::DropIdleLeaf(const Request& request, const Branch& branch, int32_t blocks) {
  ListIdleLeaves();
  const auto is_source = [&](const Candidate& idle) {
    return idle.request->id == request.id && idle.branch->number == branch.source;
  };
  size_t last = idle_leaves_.size();
  bool source_is_idle = false;
  while (last > 0 && idle_leaves_[last - 1].request->id >= request.id) {
    const Candidate idle = idle_leaves_[last - 1];
    const bool stays =
        idle.branch == &branch || is_source(idle) || IsProtected(*idle.request, request, blocks);
    if (idle.branch->leaf >= 0 && stays) {
      source_is_idle = source_is_idle || is_source(idle);
      --last;  // stays
      continue;
    }
    idle_leaves_.erase(idle_leaves_.begin() + static_cast<ptrdiff_t>(last) - 1);
    if (idle.branch->leaf < 0) {  // dropped meanwhile
      --last;
      continue;
    }
    DropLeaf(idle.request, idle.branch);
    return true;
  }
  if (!source_is_idle) return false;
  Request* own = requests_.at(request.id).get();
  DropLeaf(own, &own->tree.branch(branch.source));
  return true;
}

bool Scheduler::Impl::PreemptYounger(const Request& request, int32_t blocks) {
  for (auto it = requests_.rbegin(); it != requests_.rend() && it->first > request.id; ++it) {
    Request& victim = *it->second;
    if (victim.in_memory.empty() || victim.last_step == tree_.current_step()) continue;
    if (IsProtected(victim, request, blocks)) continue;
    Preempt(&victim);
    return true;
  }
  return false;
}

void Scheduler::Impl::Preempt(Request* victim) {
  const int32_t before = tree_.live_blocks();
  while (!victim->in_memory.empty()) DropLeaf(victim, &victim->tree.branch(*victim->in_memory.begin()));
  victim->admitted = false;
  victim->comes_first = false;
  peers_.Preempt(victim->peer, victim->id, victim->wanted_blocks);
  victim->wanted_blocks = before - tree_.live_blocks();
  ++counters_.preemptions;
}

bool Scheduler::Impl::ParkHigherBranch(const Request& request, const Branch& branch) {
  Request& own = *requests_.at(request.id);
  for (auto it = own.in_memory.rbegin(); it != own.in_memory.rend() && *it > branch.number; ++it) {
    Branch& parked = own.tree.branch(*it);
    if (parked.last_step == tree_.current_step()) continue;
    DropLeaf(&own, &parked);
    return true;
  }
  return false;
}

void Scheduler::Impl::GiveLeaf(Request* request, Branch* branch, int32_t leaf) {
  branch->leaf = leaf;
  request->in_memory.insert(branch->number);
  ++running_;
}

int32_t Scheduler::Impl::TakeLeaf(Request* request, Branch* branch) {
  request->in_memory.erase(branch->number);
  --running_;
  return std::exchange(branch->leaf, -1);
}

// The branch goes on later, from its tokens. Results of steps in flight are still taken.
void Scheduler::Impl::DropLeaf(Request* request, Branch* branch) {
  const int32_t live_before = tree_.live_blocks();
  tree_.Release(TakeLeaf(request, branch));
  NoteHeld(*request, live_before);
  branch->path_issued = false;
}

void Scheduler::Impl::DropClaim(Request* request, Branch* branch) {
  if (!branch->claims_source) return;
  branch->claims_source = false;
  Branch& source = request->tree.branch(branch->source);
  --source.continuations;
  if (source.leaf >= 0 || source.claims_source) Reconsider(request, &source);
}

// After a change: lists the branch if it wants rows, releases its leaf if nothing needs it any more. A given
// branch has no leaf: what holds its tokens may have become needless.
void Scheduler::Impl::Reconsider(Request* request, Branch* branch) {
  if (branch->run == nullptr && request->tree.given(*branch) != nullptr) {
    if (branch->source < 0) return;
    branch = &request->tree.branch(branch->source);
  }
  if (Wants(request->tree, *branch)) {
    if (branch->listed) return;
    branch->listed = true;
    request->work_sorted =
        request->work.empty() || (request->work_sorted && request->work.back() < branch->number);
    request->work.push_back(branch->number);
    return;
  }
  const bool complete = branch->finished || branch->run != nullptr;
  if (!complete || branch->barriers > 0) return;
  const bool in_draft = planning_ && branch->last_step == tree_.current_step();
  if (branch->leaf >= 0 && branch->continuations == 0 && !in_draft) DropLeaf(request, branch);
  if (branch->leaf < 0 && branch->continuations == 0 && branch->finished) DropClaim(request, branch);
}

void Scheduler::Impl::EndSlot(Branch* branch) {
  if (branch->slot < 0) return;
  free_slots_.push_back(branch->slot);
  branch->slot = -1;
}

}  // namespace espalier
