#include "engine/step_builder.h"

#include <algorithm>
#include <utility>

namespace espalier {

StepBuilder::StepBuilder(const SchedulerOptions& options, TailNodes* tails, MemoryPressure* pressure,
                         SequenceOpener* opener, SequenceSlots* slots, UsageMeter* usage)
    : options_(options),
      tails_(*tails),
      pressure_(*pressure),
      opener_(*opener),
      sequence_slots_(*slots),
      usage_(*usage),
      batch_builder_(&tails->kv(), options.shuffle_seed) {}

void StepBuilder::Begin(uint64_t step_id) {
  input_ = std::make_shared<StepInput>();
  input_->step_id = step_id;
  memory_ = {};
  record_ = {};
  record_.step_id = step_id;
  rows_ = 0;
  sample_uses_.clear();
  score_uses_.clear();
  sequence_slot_uses_.clear();
  params_index_.clear();
}

StepBuilder::IssuedRows StepBuilder::Issue(const Candidate& candidate, int32_t budget) {
  Sequence& sequence = *candidate.sequence;
  ScheduledRequest& request = *candidate.request;
  if (budget <= 0 || !request.Wants(sequence)) return {};
  if (sequence.tail < 0 && !request.place.admitted()) return {};  // preempted while this step was planned
  if (sequence.tail >= 0 && !MakeLastRowRunAgain(sequence)) opener_.Close(&request, &sequence);
  if (sequence.tail < 0 && !opener_.Open(&request, &sequence, &memory_)) return {};
  int32_t issued = 0;
  if (!sequence.path_issued) {
    issued = IssueAbove(candidate, budget);
    if (!sequence.path_issued) return {issued, false};
  }
  const KvTree& kv = tails_.kv();
  const int32_t first = kv.node(sequence.tail).issued_end();
  const int32_t missing = kv.node(sequence.tail).end_position() - first;
  ESPALIER_CHECK(missing > 0);
  const int32_t rows = IssueNode(candidate, sequence.tail, std::min(missing, budget - issued));
  if (rows > 0) AttachUses(candidate, first, first + rows);
  return {issued + rows, rows == missing};
}

// Rows of the shared nodes above the tail node, as far as they are missing.
int32_t StepBuilder::IssueAbove(const Candidate& candidate, int32_t budget) {
  const KvTree& kv = tails_.kv();
  Sequence& sequence = *candidate.sequence;
  std::vector<int32_t> above;
  for (int32_t id = kv.node(sequence.tail).parent; id >= 0; id = kv.node(id).parent) {
    if (kv.node(id).issued_tokens < kv.node(id).size()) above.push_back(id);
  }
  int32_t issued = 0;
  for (auto it = above.rbegin(); it != above.rend(); ++it) {
    const int32_t missing = kv.node(*it).size() - kv.node(*it).issued_tokens;
    const int32_t rows = IssueNode(candidate, *it, std::min(missing, budget - issued));
    issued += rows;
    if (rows < missing) return issued;
  }
  sequence.path_issued = true;
  return issued;
}

// Of a run, one of the branches that need it is named.
void StepBuilder::NotePrefill(const Candidate& candidate) {
  const KvTree& kv = tails_.kv();
  const Sequence& sequence = *candidate.sequence;
  const KvNode& tail = kv.node(sequence.tail);
  int32_t computed_tokens = tail.issued_end();
  for (int32_t id = tail.parent; id >= 0; id = kv.node(id).parent) {
    if (kv.node(id).issued_tokens < kv.node(id).size()) computed_tokens = kv.node(id).issued_end();
  }
  const int32_t branch =
      sequence.run == nullptr ? sequence.number : candidate.request->tree.sequences().BranchOfRun(sequence);
  record_.prefills.push_back({candidate.request->id(), {branch, computed_tokens, tail.end_position()}});
}

// Where the row of the last token has been run, but its logits were not asked for: it is run again. False: it
// cannot be, because the last token is part of what others share; the path has to be opened anew.
bool StepBuilder::MakeLastRowRunAgain(const Sequence& sequence) {
  const KvNode& tail = tails_.kv().node(sequence.tail);
  if (tail.issued_end() < tail.end_position()) return true;
  if (tail.size() == 0 || tail.size() - 1 < tail.indexed_tokens) return false;
  tails_.mutable_kv().Reissue(sequence.tail, tail.end_position() - 1);
  return true;
}

// Issues up to `rows` rows of a node; fewer where blocks are short. Returns how many.
int32_t StepBuilder::IssueNode(const Candidate& candidate, int32_t node, int32_t rows) {
  if (rows <= 0) return 0;
  const KvTree& kv = tails_.kv();
  ScheduledRequest& request = *candidate.request;
  if (!pressure_.MakeRoom(&request, *candidate.sequence, kv.BlocksForRows(node, rows))) {
    const int32_t held = static_cast<int32_t>(kv.node(node).blocks.size());
    const int32_t room =
        (held + tails_.blocks().free_blocks()) * kv.block_tokens() - kv.node(node).issued_tokens;
    rows = std::min(rows, room);
    if (rows <= 0) return 0;
  }
  const int64_t first = kv.node(node).issued_end();
  tails_.IssueRows(&request, node, rows, &memory_);
  candidate.sequence->last_step = record_.step_id;
  request.issued.last_step_ = record_.step_id;
  rows_ += rows;
  usage_.AddComputed(&request, rows);
  const int64_t weight = rows * (first + 1) + int64_t{rows} * (rows - 1) / 2;
  std::vector<StepRecord::Share>& shares = record_.shares;
  if (shares.empty() || shares.back().request != request.id()) shares.push_back({request.id(), 0});
  shares.back().weight += weight;
  record_.total_weight += weight;
  return rows;
}

// What is sampled, scored or completed by the rows [first_position, end_position) of the sequence's tail
// node.
void StepBuilder::AttachUses(const Candidate& candidate, int32_t first_position, int32_t end_position) {
  Sequence& sequence = *candidate.sequence;
  ScheduledRequest& request = *candidate.request;
  const int32_t tail = sequence.tail;
  const KvNode& node = tails_.kv().node(tail);
  for (int32_t position = first_position; position < end_position; ++position) {
    if (node.tokens[static_cast<size_t>(position - node.begin_position)] == kUnknownToken)
      sequence_slot_uses_.push_back({tail, position, sequence.sequence_slot});
  }
  if (sequence.run != nullptr) AttachRunUses(&request, &sequence, end_position);
  if (end_position < node.end_position()) return;
  if (sequence.run != nullptr) {
    sequence.read_done = true;
    record_.reads.push_back({request.id(), sequence.number});
  }
  if (sequence.work == SequenceWork::kDecode && !sequence.finished()) {
    SampleToken(&request, &sequence, tail, end_position - 1);
    tails_.mutable_kv().Append(tail, kUnknownToken);
  }
  if (!std::exchange(sequence.tail_pending, false)) return;
  SampleFirstTokens(&request, std::exchange(sequence.awaiting, {}), tail, end_position - 1);
}

// What the run's rows before `end_position` are needed for, as far as it has not been asked for.
void StepBuilder::AttachRunUses(ScheduledRequest* request, Sequence* run, int32_t end_position) {
  SequenceForest& sequences = request->tree.sequences();
  for (int32_t position = 0; (position = sequences.NextUsePosition(*run)) < end_position;) {
    const RunUse& use = run->run->uses[static_cast<size_t>(run->uses_issued++)];
    if (use.kind == RunUse::Kind::kSample) {
      SampleFirstTokens(request, sequences.TakeAwaiting(run, use), run->tail, position);
      continue;
    }
    const Branch& branch = request->tree.branch(sequences.UseBranch(*run, use));
    if (branch.dead) continue;
    if (use.kind == RunUse::Kind::kRead) {
      record_.reads.push_back({request->id(), branch.number});
      continue;
    }
    input_->scores.push_back({.logit_index = 0,
                              .token_id = branch.tokens[static_cast<size_t>(use.token)],
                              .top_logprobs = request->tree.given(branch)->top_logprobs});
    score_uses_.push_back({run->tail, position});
    record_.scores.push_back({request->id(), branch.number});
  }
}

// Of branches that wait for the logits at `position` of the path to `tail`.
void StepBuilder::SampleFirstTokens(ScheduledRequest* request, const std::vector<int32_t>& awaiting,
                                    int32_t tail, int32_t position) {
  for (const int32_t number : awaiting) {
    Sequence& child = request->sequence(number);
    child.work = SequenceWork::kDecode;
    SampleToken(request, &child, tail, position);
    tails_.UpdateRunnable(request, &child);
  }
}

// Samples the next token of `sampling` from the logits at `position` of the path to `tail`.
void StepBuilder::SampleToken(ScheduledRequest* request, Sequence* sampling, int32_t tail, int32_t position) {
  const GenerateSpec& spec = *request->tree.generate(*sampling->answer);
  if (sampling->sequence_slot < 0) {
    sequence_slots_.Take(sampling);
    ESPALIER_CHECK(sampling->size() == 0);  // a slot is kept to the end
    if (spec.sampling.UsesHistory())
      input_->histories.push_back({sampling->sequence_slot, request->tree.History(sampling->answer->parent)});
  }
  input_->samples.push_back({.logit_index = 0,
                             .sequence_slot = sampling->sequence_slot,
                             .params = ParamsIndex(spec.sampling),
                             .position = position + 1,
                             .stream = sampling->answer->stream,
                             .top_logprobs = spec.top_logprobs});
  sample_uses_.push_back({tail, position});
  record_.samples.push_back({request->id(), sampling->number});
  ++sampling->sampled;
  request->issued.has_sampled_ = true;
}

// All instances of a node share its parameters.
int32_t StepBuilder::ParamsIndex(const SamplingParams& params) {
  const auto next = static_cast<int32_t>(input_->params.size());
  const auto [found, added] = params_index_.try_emplace(&params, next);
  if (added) input_->params.push_back(params);
  return found->second;
}

PlannedStep StepBuilder::Finish() {
  ESPALIER_CHECK(rows_ > 0 || memory_.copies.empty());
  if (rows_ == 0) return {};
  const int64_t begin_us = options_.now_us ? options_.now_us() : 0;
  input_->zero_blocks = std::move(memory_.zero_blocks);
  input_->copies = std::move(memory_.copies);
  batch_builder_.Build(&input_->batch, &input_->tokens);
  NumberRows();
  input_->plan = PlanAttention(input_->batch, options_.attention, options_.plan);
  record_.accounting = input_->plan.accounting;
  usage_.AddStep();
  if (options_.now_us) usage_.AddPlanning(options_.now_us() - begin_us);
  return {std::exchange(input_, nullptr), std::move(record_)};
}

// Turns positions into rows.
void StepBuilder::NumberRows() {
  StepInput& input = *input_;
  const auto row_of = [&](const RowUse& use) {
    return static_cast<size_t>(batch_builder_.RowOf(input.batch, use.node, use.position));
  };
  for (const RowUse& use : sequence_slot_uses_) input.tokens[row_of(use)].sequence_slot = use.sequence_slot;
  std::vector<int32_t> logit_of(input.tokens.size(), -1);
  for (const RowUse& use : sample_uses_) logit_of[row_of(use)] = 0;
  for (const RowUse& use : score_uses_) logit_of[row_of(use)] = 0;
  for (size_t row = 0; row < logit_of.size(); ++row) {
    if (logit_of[row] < 0) continue;
    logit_of[row] = static_cast<int32_t>(input.logit_rows.size());
    input.logit_rows.push_back(static_cast<int32_t>(row));
  }
  for (size_t i = 0; i < input.samples.size(); ++i)
    input.samples[i].logit_index = logit_of[row_of(sample_uses_[i])];
  for (size_t i = 0; i < input.scores.size(); ++i)
    input.scores[i].logit_index = logit_of[row_of(score_uses_[i])];
}

}  // namespace espalier
