#include "engine/tail_nodes.h"

#include <algorithm>
#include <utility>

namespace espalier {

void TailNodes::Enter(ScheduledRequest* request) {
  const TreeRequest& content = request->tree.request();
  request->tails.space_ = content.cache_bypass ? kv_.AcquirePrivateCacheNamespace()
                                               : kv_.AcquireCacheNamespace(content.cache_namespace);
}

void TailNodes::Leave(ScheduledRequest* request) {
  DropAll(request);
  kv_.ReleaseCacheNamespace(request->tails.space_);
}

void TailNodes::BeginStep(uint64_t step) {
  kv_.BeginStep(step);
  planning_ = true;
  held_counted_ = false;
}

void TailNodes::EndStep(bool issued) {
  planning_ = false;
  kv_.EndStep(issued);
}

int32_t TailNodes::Open(ScheduledRequest* request, Sequence* sequence, const std::vector<int32_t>& path,
                        int32_t private_from) {
  const int32_t live_before = kv_.live_blocks();
  const KvTree::OpenedPath opened = kv_.OpenPath(request->tails.space_, path, private_from);
  NoteHeld(*request, live_before);
  Give(request, sequence, opened.tail);
  return opened.cached_tokens;
}

void TailNodes::Fork(ScheduledRequest* request, Sequence* sequence, int32_t tail, int32_t keep_end,
                     StepMemory* memory) {
  const int32_t live_before = kv_.live_blocks();
  Give(request, sequence, kv_.ForkTail(tail, keep_end, memory));
  NoteHeld(*request, live_before);
}

void TailNodes::TakeOver(ScheduledRequest* request, Sequence* sequence, Sequence* source) {
  Give(request, sequence, Take(request, source));
}

void TailNodes::Give(ScheduledRequest* request, Sequence* sequence, int32_t tail) {
  sequence->tail = tail;
  sequence->path_issued = false;
  if (request->tails.in_memory_.empty()) {
    holders_.emplace(request->place.precedence(), request);
    holders_of_[request->peer()].emplace(request->place.precedence(), request);
  }
  request->tails.in_memory_.insert(sequence->number);
  ++running_;
}

int32_t TailNodes::Take(ScheduledRequest* request, Sequence* sequence) {
  request->tails.in_memory_.erase(sequence->number);
  if (request->tails.in_memory_.empty()) {
    holders_.erase(request->place.precedence());
    const auto of_peer = holders_of_.find(request->peer());
    of_peer->second.erase(request->place.precedence());
    if (of_peer->second.empty()) holders_of_.erase(of_peer);
  }
  --running_;
  return std::exchange(sequence->tail, -1);
}

void TailNodes::Drop(ScheduledRequest* request, Sequence* sequence) {
  const int32_t live_before = kv_.live_blocks();
  const bool pruned = sequence->answer != nullptr && sequence->answer->pruned;
  kv_.Release(Take(request, sequence), /*cold=*/pruned);
  NoteHeld(*request, live_before);
  sequence->path_issued = false;
}

void TailNodes::DropAll(ScheduledRequest* request) {
  while (!request->tails.in_memory_.empty())
    Drop(request, &request->sequence(*request->tails.in_memory_.begin()));
}

void TailNodes::IssueRows(ScheduledRequest* request, int32_t node, int32_t rows, StepMemory* memory) {
  const int32_t live_before = kv_.live_blocks();
  kv_.IssueRows(node, rows, memory);
  NoteHeld(*request, live_before);
}

void TailNodes::DropClaim(ScheduledRequest* request, Sequence* sequence) {
  if (!sequence->claims_source) return;
  sequence->claims_source = false;
  Sequence& source = request->sequence(sequence->source);
  --source.continuations;
  if (source.tail >= 0 || source.claims_source) UpdateRunnable(request, &source);
}

void TailNodes::UpdateRunnable(ScheduledRequest* request, Sequence* sequence) {
  if (sequence->answer != nullptr && request->tree.given(*sequence->answer) != nullptr) {
    if (sequence->source < 0) return;
    sequence = &request->sequence(sequence->source);
  }
  if (request->Wants(*sequence)) {
    if (std::exchange(sequence->listed, true)) return;
    TailHolder& tails = request->tails;
    tails.work_sorted_ = tails.work_.empty() || (tails.work_sorted_ && tails.work_.back() < sequence->number);
    tails.work_.push_back(sequence->number);
    return;
  }
  const bool complete = sequence->finished() || sequence->run != nullptr;
  if (!complete || sequence->barriers > 0) return;
  const bool in_draft = planning_ && sequence->last_step == kv_.current_step();
  if (sequence->tail >= 0 && sequence->continuations == 0 && !in_draft) Drop(request, sequence);
  if (sequence->tail < 0 && sequence->continuations == 0 && sequence->finished())
    DropClaim(request, sequence);
}

const std::vector<int32_t>& TailNodes::CollectWork(ScheduledRequest* request) {
  TailHolder& tails = request->tails;
  std::erase_if(tails.work_, [&](int32_t number) {
    Sequence& sequence = request->sequence(number);
    sequence.listed = request->Wants(sequence);
    return !sequence.listed;
  });
  if (!tails.work_sorted_) std::sort(tails.work_.begin(), tails.work_.end());
  tails.work_sorted_ = true;
  return tails.work_;
}

const TailNodes::Holders& TailNodes::holders_of(int32_t peer) const {
  static const Holders kNone;
  const auto found = holders_of_.find(peer);
  return found == holders_of_.end() ? kNone : found->second;
}

int32_t TailNodes::HeldBy(int32_t peer) {
  CountHeld();
  return requests_->peers().held(peer);
}

void TailNodes::CountHeld() {
  if (std::exchange(held_counted_, true)) return;
  constexpr int32_t kNoPeer = -1;
  constexpr int32_t kMany = -2;
  PeerShares& peers = requests_->held_by_peers();
  peers.ClearHeld();
  std::vector<int32_t> holder(static_cast<size_t>(kv_.node_capacity()), kNoPeer);
  for (const auto& [place, request] : holders_) {
    for (const int32_t number : request->tails.in_memory()) {
      for (int32_t at = request->sequence(number).tail; at >= 0; at = kv_.node(at).parent) {
        int32_t& known = holder[static_cast<size_t>(at)];
        if (known == request->peer() || known == kMany) break;  // and so is all above it
        const auto blocks = static_cast<int32_t>(kv_.node(at).blocks.size());
        if (known == kNoPeer) {
          peers.AddHeld(request->peer(), blocks);
        } else {
          peers.AddHeld(known, -blocks);
        }
        known = known == kNoPeer ? request->peer() : kMany;
      }
    }
  }
}

// After a change on behalf of the request, before which so many blocks were live.
void TailNodes::NoteHeld(const ScheduledRequest& request, int32_t blocks_before) {
  if (held_counted_) requests_->held_by_peers().AddHeld(request.peer(), kv_.live_blocks() - blocks_before);
}

}  // namespace espalier
