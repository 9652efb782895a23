#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/scheduler_impl.h"

// What came of a step: tokens and scores go to their branches, and events out.

namespace espalier {

void Scheduler::Impl::Commit(const StepResult& result) {
  ESPALIER_CHECK(!in_flight_.empty() && in_flight_.front().step_id == result.step_id);
  const StepRecord record = std::move(in_flight_.front());
  in_flight_.pop_front();
  ESPALIER_CHECK(result.samples.size() == record.samples.size());
  ESPALIER_CHECK(result.scores.size() == record.scores.size());
  tree_.CommitStep(record.step_id);
  CommitUsage(record);
  CommitPrefills(record);
  CommitSamples(record, result);
  CommitScores(record, result);
  SettleTouched(record.step_id, /*committed=*/true);
  if (options_.engine.check_invariants || requests_.empty()) {
    const Status status = options_.engine.check_invariants ? tree_.Check() : tree_.CheckSums(/*idle=*/true);
    ESPALIER_CHECK_MSG(status.ok(), status.ok() ? std::string() : status.error().ToString());
  }
}

// Null: the request has ended meanwhile. Targets of one request come in a row.
Scheduler::Impl::Request* Scheduler::Impl::Find(uint64_t id) {
  if (found_ != nullptr && found_->id == id) return found_;
  const auto it = requests_.find(id);
  if (it == requests_.end()) return nullptr;
  found_ = it->second.get();
  return found_;
}

void Scheduler::Impl::CommitSamples(const StepRecord& record, const StepResult& result) {
  for (size_t i = 0; i < record.samples.size(); ++i) {
    Request* request = Find(record.samples[i].request);
    if (request == nullptr) continue;
    Branch& branch = request->tree.branch(record.samples[i].branch);
    if (branch.finished) continue;  // a token too many: drawn before the end was known
    const TokenResult& token = result.samples[i];
    std::string text;
    request->tree.TakeToken(&branch, token, &text);
    BranchDelta* delta = DeltaOf(request, branch);
    delta->text += text;
    delta->finish_reason = branch.reason;
    if (!token.failed()) {
      ++request->usage.generated_tokens;
      ++counters_.generated_tokens;
      delta->token_ids.push_back(token.token_id);
      delta->logprobs.push_back(token.logprob);
      if (request->tree.generate(branch)->top_logprobs > 0) delta->top_logprobs.push_back(token.top_logprobs);
    }
    if (branch.leaf >= 0) {
      if (!token.failed()) tree_.SetToken(branch.leaf, branch.end_position() - 1, token.token_id);
      if (branch.finished) tree_.Truncate(branch.leaf, branch.end_position());
      tree_.IndexLeaf(branch.leaf, false);
    }
    if (!branch.finished) continue;
    branch.drawn = branch.size();
    EndSlot(&branch);
    request->reconsider.push_back(branch.number);
  }
}

void Scheduler::Impl::CommitScores(const StepRecord& record, const StepResult& result) {
  for (size_t i = 0; i < record.scores.size(); ++i) {
    Request* request = Find(record.scores[i].request);
    if (request == nullptr) continue;
    Branch& branch = request->tree.branch(record.scores[i].branch);
    branch.scores.push_back(result.scores[i]);
    if (static_cast<int32_t>(branch.scores.size()) < branch.size()) continue;
    request->tree.TakeScores(&branch);
    ReportGiven(request, branch);
  }
  for (const StepRecord::Target& target : record.reads) {
    Request* request = Find(target.request);
    if (request == nullptr) continue;
    Branch& branch = request->tree.branch(target.branch);
    if (branch.run != nullptr) {
      branch.finished = true;
      request->reconsider.push_back(target.branch);
    } else {
      request->tree.FinishGiven(&branch);
    }
    Touch(request);
  }
}

// A request's share of the bytes read is its share of what reading every row's own path would take.
void Scheduler::Impl::CommitUsage(const StepRecord& record) {
  counters_.kv_read_bytes += record.accounting.kv_read_bytes;
  counters_.kv_read_bytes_sequence += record.accounting.kv_read_bytes_sequence;
  for (const StepRecord::Share& share : record.shares) {
    Request* request = Find(share.request);
    if (request == nullptr) continue;
    const double part = static_cast<double>(share.weight) / static_cast<double>(record.total_weight);
    request->kv_read_bytes += part * static_cast<double>(record.accounting.kv_read_bytes);
    request->kv_read_bytes_sequence += part * static_cast<double>(record.accounting.kv_read_bytes_sequence);
    if (request->counted_step != record.step_id) ++request->usage.steps;
    request->counted_step = record.step_id;
  }
}

void Scheduler::Impl::CommitPrefills(const StepRecord& record) {
  for (const StepRecord::Prefill& prefill : record.prefills) {
    if (Find(prefill.request) != nullptr) Emit(prefill.request, prefill.progress);
  }
}

// Events.

void Scheduler::Impl::Touch(Request* request) {
  if (request->changed) return;
  request->changed = true;
  touched_.push_back(request->id);
}

BranchDelta* Scheduler::Impl::DeltaOf(Request* request, const Branch& branch) {
  Touch(request);
  request->delta_of.resize(static_cast<size_t>(request->tree.size()), -1);
  int32_t& index = request->delta_of[static_cast<size_t>(branch.number)];
  if (index < 0) {
    index = static_cast<int32_t>(request->deltas.size());
    BranchDelta& delta = request->deltas.emplace_back();
    delta.branch = branch.number;
    delta.parent = branch.parent;
    delta.node = branch.node;
  }
  return &request->deltas[static_cast<size_t>(index)];
}

void Scheduler::Impl::ReportGiven(Request* request, const Branch& branch) {
  BranchDelta* delta = DeltaOf(request, branch);
  delta->token_ids = branch.tokens;
  delta->text = branch.text;
  delta->finish_reason = branch.reason;
  if (branch.reason == FinishReason::kError) return;
  for (const TokenResult& score : branch.scores) {
    delta->logprobs.push_back(score.logprob);
    if (request->tree.given(branch)->top_logprobs > 0) delta->top_logprobs.push_back(score.top_logprobs);
  }
}

// `committed`: the results of step_id have just been taken. Else before a step is planned: what has ended, or
// has more barriers to resolve, goes on; all else is reported with the next commit.
void Scheduler::Impl::SettleTouched(uint64_t step_id, bool committed) {
  growing_ = false;
  for (const uint64_t id : std::exchange(touched_, {})) {
    Request* request = Find(id);
    if (request == nullptr) continue;
    if (!committed && !request->tree.done() && !request->tree.growing()) {
      touched_.push_back(id);
      continue;
    }
    request->changed = false;
    Settle(request, step_id, committed);
  }
}

void Scheduler::Impl::Settle(Request* request, uint64_t step_id, bool committed) {
  std::vector<int32_t> created;
  std::vector<TreeSelected> selected;
  std::vector<int32_t> candidates;
  request->tree.Grow(kGrowBudget, &created, &selected, &candidates);
  // Branches that follow from a selection are reported after it: with the next step.
  if (committed && !selected.empty()) FlushDeltas(request, step_id);
  for (TreeSelected& selection : selected) Emit(request->id, std::move(selection));
  NoteCreated(request, created);
  for (const int32_t number : std::exchange(request->reconsider, {}))
    Reconsider(request, &request->tree.branch(number));
  for (const int32_t number : candidates) Reconsider(request, &request->tree.branch(number));
  for (const int32_t number : created) {
    const int32_t parent = request->tree.branch(number).parent;
    if (parent >= 0) Reconsider(request, &request->tree.branch(parent));
  }
  if (request->tree.growing()) {
    growing_ = true;
    Touch(request);
  }
  const bool done = request->tree.done();
  if ((committed && selected.empty()) || done) FlushDeltas(request, step_id);
  if (!done) return;
  Emit(request->id, Finished(*request));
  ++counters_.finished;
  End(requests_.find(request->id));
}

void Scheduler::Impl::FlushDeltas(Request* request, uint64_t step_id) {
  if (request->deltas.empty()) return;
  TreeDelta delta{step_id, std::exchange(request->deltas, {})};
  for (const BranchDelta& branch : delta.branches) request->delta_of[static_cast<size_t>(branch.branch)] = -1;
  std::sort(delta.branches.begin(), delta.branches.end(),
            [](const BranchDelta& a, const BranchDelta& b) { return a.branch < b.branch; });
  Emit(request->id, std::move(delta));
}

TreeFinished Scheduler::Impl::Finished(const Request& request) const {
  TreeFinished finished{request.tree.Summaries(), request.usage};
  finished.usage.distinct_tokens = request.tree.distinct_tokens();
  finished.usage.kv_read_bytes = std::llround(request.kv_read_bytes);
  finished.usage.kv_read_bytes_sequence = std::llround(request.kv_read_bytes_sequence);
  return finished;
}

}  // namespace espalier
