#include "engine/tree_updater.h"

#include <utility>

namespace espalier {

void TreeUpdater::Start(ScheduledRequest* request) {
  std::vector<int32_t> created;
  request->tree.Start(&created);
  NoteCreated(request, created);
}

// New branches and runs: those with rows to run go to the work list, given branches are reported.
void TreeUpdater::NoteCreated(ScheduledRequest* request, const std::vector<int32_t>& created) {
  for (const int32_t number : created) {
    const Branch& branch = request->tree.branch(number);
    if (request->tree.given(branch) != nullptr) {
      usage_.AddPrompt(request, branch.size());
      if (number > 0 && (!branch.scored || branch.finished)) events_.ReportGiven(request, branch);
    } else if (branch.finished) {
      events_.DeltaOf(request, branch)->finish_reason = branch.reason;
    }
    tails_.UpdateRunnable(request, &request->sequence(number));
  }
  for (const int32_t number : request->tree.sequences().TakeNewRuns())
    tails_.UpdateRunnable(request, &request->sequence(number));
}

std::shared_ptr<ScheduledRequest> TreeUpdater::End(ScheduledRequest* request) {
  tails_.Leave(request);
  for (int32_t number = 0; number < request->tree.size(); ++number)
    sequence_slots_.Return(&request->sequence(number));
  return requests_.Remove(request);
}

void TreeUpdater::Abort(ScheduledRequest* request, const Error& reason) {
  events_.Emit(request->id(), reason);
  End(request);
}

// Results. Targets of one request come in a row.

void TreeUpdater::Commit(const StepRecord& record, const StepResult& result) {
  ESPALIER_CHECK(result.samples.size() == record.samples.size());
  ESPALIER_CHECK(result.scores.size() == record.scores.size());
  CommitUsage(record);
  CommitPrefills(record);
  CommitSamples(record, result);
  CommitScores(record, result);
  CommitReads(record);
}

void TreeUpdater::CommitUsage(const StepRecord& record) {
  usage_.AddReads(record);
  for (const StepRecord::Share& share : record.shares) {
    ScheduledRequest* request = requests_.Find(share.request);
    if (request != nullptr) usage_.AddReads(request, record, share);
  }
}

void TreeUpdater::CommitPrefills(const StepRecord& record) {
  for (const StepRecord::Prefill& prefill : record.prefills) {
    if (requests_.Find(prefill.request) != nullptr) events_.Emit(prefill.request, prefill.progress);
  }
}

void TreeUpdater::CommitSamples(const StepRecord& record, const StepResult& result) {
  for (size_t i = 0; i < record.samples.size(); ++i) {
    ScheduledRequest* request = requests_.Find(record.samples[i].request);
    if (request == nullptr) continue;
    Sequence& sequence = request->sequence(record.samples[i].sequence);
    if (sequence.finished()) continue;  // a token too many: sampled before the end was known
    TakeToken(request, &sequence, result.samples[i]);
  }
}

void TreeUpdater::TakeToken(ScheduledRequest* request, Sequence* sequence, const TokenResult& token) {
  const Branch& branch = *sequence->answer;
  std::string text;
  request->tree.TakeToken(branch.number, token, &text);
  BranchDelta* delta = events_.DeltaOf(request, branch);
  delta->text += text;
  delta->finish_reason = branch.reason;
  if (!token.failed()) {
    usage_.AddGenerated(request);
    delta->token_ids.push_back(token.token_id);
    delta->logprobs.push_back(token.logprob);
    if (request->tree.generate(branch)->top_logprobs > 0) delta->top_logprobs.push_back(token.top_logprobs);
  }
  if (sequence->tail >= 0) {
    KvTree& kv = tails_.mutable_kv();
    if (!token.failed()) kv.SetToken(sequence->tail, branch.end_position() - 1, token.token_id);
    if (branch.finished) kv.Truncate(sequence->tail, branch.end_position());
    kv.IndexTail(sequence->tail, false);
  }
  if (branch.finished) {
    sequence->sampled = branch.size();
    sequence_slots_.Return(sequence);
  }
  if (branch.finished || sequence->awaits_result) request->update.to_update_.push_back(sequence->number);
}

void TreeUpdater::CommitScores(const StepRecord& record, const StepResult& result) {
  for (size_t i = 0; i < record.scores.size(); ++i) {
    ScheduledRequest* request = requests_.Find(record.scores[i].request);
    if (request == nullptr) continue;
    const int32_t branch = record.scores[i].sequence;
    if (!request->tree.TakeScore(branch, result.scores[i])) continue;
    events_.ReportGiven(request, request->tree.branch(branch));
    request->tree.DropScores(branch);
  }
}

void TreeUpdater::CommitReads(const StepRecord& record) {
  for (const StepRecord::Target& target : record.reads) {
    ScheduledRequest* request = requests_.Find(target.request);
    if (request == nullptr) continue;
    Sequence& sequence = request->sequence(target.sequence);
    if (sequence.run != nullptr) {
      sequence.read_committed = true;
      request->update.to_update_.push_back(target.sequence);
    } else {
      request->tree.FinishGiven(target.sequence);
    }
    events_.Touch(request);
  }
}

// Growth.

void TreeUpdater::FinalizeTouched(uint64_t step_id, bool committed) {
  expanding_ = false;
  for (const uint64_t id : events_.TakeTouched()) {
    ScheduledRequest* request = requests_.Find(id);
    if (request == nullptr) continue;
    const RequestTree& tree = request->tree;
    if (!committed && !tree.done() && !tree.waits_for_client() && !tree.expanding()) {
      events_.KeepTouched(id);
      continue;
    }
    EventLog::Untouch(request);
    Finalize(request, step_id, committed);
  }
}

void TreeUpdater::Finalize(ScheduledRequest* request, uint64_t step_id, bool committed) {
  std::vector<int32_t> created;
  std::vector<TreeSelected> selected;
  std::vector<int32_t> candidates;
  request->tree.Expand(policy_.expand_budget, &created, &selected, &candidates);
  // Branches that follow from a selection are reported after it: with the next step.
  if (committed && !selected.empty()) events_.FlushDeltas(request, step_id);
  for (TreeSelected& selection : selected) events_.Emit(request->id(), std::move(selection));
  NoteCreated(request, created);
  const auto update = [&](int32_t number) { tails_.UpdateRunnable(request, &request->sequence(number)); };
  for (const int32_t number : std::exchange(request->update.to_update_, {})) update(number);
  for (const int32_t number : candidates) update(number);
  for (const int32_t number : created) {
    const int32_t parent = request->tree.branch(number).parent;
    if (parent >= 0) update(parent);
  }
  if (request->tree.expanding()) {
    expanding_ = true;
    events_.Touch(request);
  }
  const bool done = request->tree.done();
  const bool waits = request->tree.waits_for_client();
  if ((committed && selected.empty()) || done || waits) events_.FlushDeltas(request, step_id);
  if (waits) Suspend(request);
  if (done) Finish(request);
}

void TreeUpdater::Finish(ScheduledRequest* request) {
  const uint64_t id = request->id();
  TreeFinished finished{request->tree.TakeSummaries(), usage_.Of(*request)};
  usage_.AddFinished();
  finished.remains = End(request);
  events_.Emit(id, std::move(finished));
}

// Nothing of it runs: it keeps neither memory nor a place among those that do.
void TreeUpdater::Suspend(ScheduledRequest* request) {
  tails_.DropAll(request);
  requests_.Suspend(request);
}

void TreeUpdater::Close(ScheduledRequest* request) {
  request->tree.Close();
  if (request->tree.done()) Finish(request);
}

}  // namespace espalier
