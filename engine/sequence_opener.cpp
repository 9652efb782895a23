#include "engine/sequence_opener.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace espalier {

void SequenceOpener::BeginStep(ScheduledRequest* request, int32_t running) {
  request->open.running_ = running;
  request->open.no_room_ = false;
}

void SequenceOpener::Close(ScheduledRequest* request, Sequence* sequence) {
  tails_.Drop(request, sequence);
  --request->open.running_;
}

bool SequenceOpener::Open(ScheduledRequest* request, Sequence* sequence, StepMemory* memory) {
  if (request->open.no_room_) return false;  // an earlier one waits for room
  if (!OpenIfRoom(request, sequence, memory)) return false;
  ++request->open.running_;
  tails_.DropClaim(request, sequence);
  return true;
}

bool SequenceOpener::OpenIfRoom(ScheduledRequest* request, Sequence* sequence, StepMemory* memory) {
  const bool forced = request->open.running_ == 0;
  Sequence* source = SourceOf(request, *sequence);
  if (source != nullptr && request->Wants(*source)) return false;  // its own rows come first
  // Blocks beyond the copy of the source's last one. What is generated takes them as it grows.
  const int32_t blocks = 1 + (sequence->run == nullptr ? 0 : sequence->size() / tails_.kv().block_tokens());
  if (!forced && tails_.AvailableBlocks() < blocks + tails_.running() &&
      !pressure_.MayClaim(*request, blocks))
    return DenyRoom(request);
  if (source != nullptr && source->tail >= 0 && source->last_step == tails_.kv().current_step())
    return false;  // copies read what earlier steps wrote
  if (source != nullptr && source->tail >= 0 && KeptEnd(*request, *sequence, *source) >= 0 &&
      (sequence->run == nullptr || !CachedBeyond(*request, *sequence, *source))) {
    if (Continue(request, sequence, source, memory)) return true;
    if (source->tail >= 0) return DenyRoom(request);  // for the copy
  }
  return OpenByTokens(request, sequence, forced);
}

bool SequenceOpener::DenyRoom(ScheduledRequest* request) {
  request->open.no_room_ = true;
  return false;
}

// What the sequence continues: its source, or what that continues where it never had a tail node, because it
// ended with its first token. Null: it is opened by its tokens.
Sequence* SequenceOpener::SourceOf(ScheduledRequest* request, const Sequence& sequence) const {
  Sequence* source = sequence.source >= 0 ? &request->sequence(sequence.source) : nullptr;
  while (source != nullptr && source->tail < 0 && source->claims_source && !request->Wants(*source))
    source = &request->sequence(source->source);
  return source;
}

// Nothing else will continue the source.
bool SequenceOpener::IsLastOf(const ScheduledRequest& request, const Sequence& sequence,
                              const Sequence& source) const {
  const Sequence* at = &sequence;
  while (at != &source) {
    const Sequence& next = request.sequence(at->source);
    if (!at->claims_source || next.continuations != 1 || next.barriers > 0) return false;
    at = &next;
  }
  return true;
}

// Up to which position the rows of the source's tail node serve the sequence: to the source's end, but a run
// may need the logits of the source's last token. -1: the tail node cannot be continued from there.
int32_t SequenceOpener::KeptEnd(const ScheduledRequest& request, const Sequence& sequence,
                                const Sequence& source) const {
  const KvNode& tail = tails_.kv().node(source.tail);
  int32_t wanted = source.end_position();
  if (sequence.run != nullptr)
    wanted =
        std::min({wanted, request.tree.sequences().NextUsePosition(sequence), sequence.end_position() - 1});
  const int32_t kept = std::min(tail.issued_end(), wanted);
  return kept < tail.begin_position + tail.indexed_tokens ? -1 : kept;
}

// Whether the index holds more of the run's path, in whole blocks, than the source's tail node does.
bool SequenceOpener::CachedBeyond(const ScheduledRequest& request, const Sequence& run,
                                  const Sequence& source) const {
  const KvTree& kv = tails_.kv();
  const SequenceForest& sequences = request.tree.sequences();
  const int32_t usable = std::min(sequences.NextUsePosition(run), run.end_position() - 1);
  if (usable / kv.block_tokens() <= source.end_position() / kv.block_tokens()) return false;
  return kv.Match(request.tails.cache_namespace(), sequences.PathTokens(run)).tokens > source.end_position();
}

// Takes the source's tail node over, or forks it, and adds the sequence's tokens beyond it. False: there is
// no block for the copy, or the tail node had to be dropped for it.
bool SequenceOpener::Continue(ScheduledRequest* request, Sequence* sequence, Sequence* source,
                              StepMemory* memory) {
  KvTree& kv = tails_.mutable_kv();
  const SequenceForest& sequences = request->tree.sequences();
  const int32_t keep_end = KeptEnd(*request, *sequence, *source);
  if (IsLastOf(*request, *sequence, *source)) {
    if (keep_end < kv.node(source->tail).issued_end()) kv.Reissue(source->tail, keep_end);
    tails_.TakeOver(request, sequence, source);
  } else {
    const int32_t blocks = std::max(kv.ForkBlocks(source->tail, keep_end), 1);
    if (!pressure_.MakeRoom(request, *sequence, blocks) || source->tail < 0) return false;
    tails_.Fork(request, sequence, source->tail, keep_end, memory);
  }
  const int32_t tail = sequence->tail;
  for (const int32_t token : sequences.PathTokens(*sequence, kv.node(tail).end_position()))
    kv.Append(tail, token);
  for (int32_t i = sequence->size(); i < sequence->sampled; ++i) kv.Append(tail, kUnknownToken);
  // Others find a long run while it is computed.
  const bool promised = sequence->run != nullptr &&
                        sequence->size() >= policy_.min_promised_blocks * kv.block_tokens() &&
                        kv.PromiseTail(tail, sequences.NextUsePosition(*sequence));
  sequence->path_issued = !promised;
  sequence->cached_counted = true;
  return true;
}

bool SequenceOpener::OpenByTokens(ScheduledRequest* request, Sequence* sequence, bool forced) {
  if (sequence->sampled > sequence->size()) return false;
  const SequenceForest& sequences = request->tree.sequences();
  const std::vector<int32_t> path = sequences.PathTokens(*sequence);
  if (!forced) {
    const int32_t block_tokens = tails_.kv().block_tokens();
    const int32_t blocks = static_cast<int32_t>(path.size()) / block_tokens + 1;
    const KvTree::Matched matched = tails_.kv().Match(request->tails.cache_namespace(), path);
    const int32_t needed = blocks - matched.tokens / block_tokens + matched.idle_blocks;
    if (tails_.AvailableBlocks() < needed + tails_.running() && !pressure_.MayClaim(*request, needed))
      return DenyRoom(request);
  }
  int32_t private_from = std::numeric_limits<int32_t>::max();
  if (sequence->run != nullptr) private_from = sequences.NextUsePosition(*sequence);
  const int32_t cached_tokens = tails_.Open(request, sequence, path, private_from);
  // Of the given branches' tokens in the run, once.
  if (sequence->run != nullptr && !sequence->cached_counted)
    usage_.AddCached(request, sequences.GivenTokensBefore(*sequence, cached_tokens));
  sequence->cached_counted = true;
  return true;
}

}  // namespace espalier
