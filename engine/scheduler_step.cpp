#include <algorithm>
#include <utility>

#include "engine/scheduler_impl.h"

// What runs in a step: which rows of which branches, and what is drawn from them.

namespace espalier {

// Whether the branch has rows to issue that it can issue without waiting for results.
bool Scheduler::Impl::Wants(const RequestTree& tree, const Branch& branch) const {
  if (branch.tail_pending) return !branch.dead && branch.finished;
  if (branch.work == BranchWork::kDecode) return !branch.finished && branch.drawn < tree.DrawLimit(branch);
  return branch.work == BranchWork::kRead && !branch.read_done;
}

std::shared_ptr<const StepInput> Scheduler::Impl::Next() {
  if (failed_ || steps_in_flight() >= options_.steps_in_flight) return nullptr;
  // Planning without a result may still have dropped leaves: with nothing in flight their blocks are free by
  // the next attempt.
  constexpr int kAttempts = 4;
  for (int attempt = 1; !requests_.empty(); ++attempt) {
    std::shared_ptr<const StepInput> step = PlanStep();
    if (step != nullptr || steps_in_flight() > 0 || growing_) return step;
    if (attempt < kAttempts || requests_.empty()) continue;
    // Everything else has given way, and still not one path fits: ValidateTreeRequest was not asked.
    Emit(requests_.begin()->first,
         Error{ErrorCode::kResourceExhausted, "", "a path of the tree does not fit into the KV cache"});
    End(requests_.begin());
    attempt = 0;
  }
  return nullptr;
}

std::shared_ptr<const StepInput> Scheduler::Impl::PlanStep() {
  StepDraft draft;
  draft.input = std::make_shared<StepInput>();
  draft.record.step_id = step_ + 1;
  tree_.BeginStep(step_ + 1);
  planning_ = true;
  idle_leaves_listed_ = false;
  held_counted_ = false;
  AdmitRequests();
  SettleTouched(step_, /*committed=*/false);

  std::vector<Candidate> decode;
  std::vector<Candidate> prefill;
  CollectCandidates(&decode, &prefill);
  const int32_t max_rows = options_.engine.max_batch_rows;
  const int32_t chunk = std::min(options_.engine.prefill_chunk_tokens, max_rows);
  // Where decode rows would fill the step, a quarter is kept for prefill, so that neither starves.
  const int32_t kept = prefill.empty() ? 0 : std::min(chunk, std::max(max_rows / 4, max_rows > 1 ? 1 : 0));
  const std::vector<Candidate> rest = LimitDecode(&decode, max_rows - kept);
  int32_t prefill_rows = decode.empty() ? max_rows : chunk;
  auto pending = static_cast<int32_t>(decode.size());
  auto decode_by_urgency = ByUrgency(decode);
  auto prefill_by_urgency = ByUrgency(prefill);
  for (size_t i = 0; i < kUrgencies; ++i) {
    pending -= static_cast<int32_t>(decode_by_urgency[i].size());
    for (const Candidate& candidate : decode_by_urgency[i])
      IssueDecode(candidate, max_rows - draft.rows, &draft);
    const int32_t budget = std::min(prefill_rows, max_rows - draft.rows - pending);
    prefill_rows -= IssuePrefill(&prefill_by_urgency[i], budget, &draft);
  }
  for (const Candidate& candidate : rest) IssueDecode(candidate, max_rows - draft.rows, &draft);

  planning_ = false;
  const bool issued = draft.rows > 0;
  if (issued) AssembleStep(&draft);
  ESPALIER_CHECK(issued || draft.memory.copies.empty());
  tree_.EndStep(issued);
  if (!issued) return nullptr;
  ++step_;
  ++counters_.steps;
  in_flight_.push_back(std::move(draft.record));
  if (options_.engine.check_invariants) CheckStep(*draft.input);
  return draft.input;
}

// Issues up to `budget` rows of the branch's path, from the first that is missing.
Scheduler::Impl::IssuedRows Scheduler::Impl::IssueBranch(const Candidate& candidate, int32_t budget,
                                                         StepDraft* draft) {
  Branch& branch = *candidate.branch;
  Request& request = *candidate.request;
  if (budget <= 0 || !Wants(request.tree, branch)) return {};
  if (branch.leaf < 0 && !request.admitted) return {};  // preempted while this step was planned
  if (branch.leaf >= 0 && !MakeLastRowRunAgain(&branch)) {
    DropLeaf(&request, &branch);
    --request.running;
  }
  if (branch.leaf < 0) {
    if (request.no_room) return {};  // an earlier branch waits for room
    if (!StartBranch(&request, &branch, draft)) return {};
  }
  int32_t issued = 0;
  if (!branch.path_issued) {
    std::vector<int32_t> above;
    for (int32_t id = tree_.node(branch.leaf).parent; id >= 0; id = tree_.node(id).parent) {
      if (tree_.node(id).issued_tokens < tree_.node(id).size()) above.push_back(id);
    }
    for (auto it = above.rbegin(); it != above.rend(); ++it) {
      const int32_t missing = tree_.node(*it).size() - tree_.node(*it).issued_tokens;
      const int32_t rows = IssueNode(candidate, *it, std::min(missing, budget - issued), draft);
      issued += rows;
      if (rows < missing) return {issued, false};
    }
    branch.path_issued = true;
  }
  const int32_t first = tree_.node(branch.leaf).issued_end();
  const int32_t missing = tree_.node(branch.leaf).end_position() - first;
  ESPALIER_CHECK(missing > 0);
  const int32_t rows = IssueNode(candidate, branch.leaf, std::min(missing, budget - issued), draft);
  issued += rows;
  if (rows > 0) AttachUses(candidate, first, first + rows, draft);
  return {issued, rows == missing};
}

// What the step has got of a path that is still incomplete after it. Of a run, one of the branches that need
// it is named.
void Scheduler::Impl::NotePrefill(const Candidate& candidate, StepDraft* draft) const {
  const Branch& branch = *candidate.branch;
  const KvNode& leaf = tree_.node(branch.leaf);
  int32_t computed_tokens = leaf.issued_end();
  for (int32_t id = leaf.parent; id >= 0; id = tree_.node(id).parent) {
    if (tree_.node(id).issued_tokens < tree_.node(id).size()) computed_tokens = tree_.node(id).issued_end();
  }
  const int32_t number = branch.run == nullptr ? branch.number : candidate.request->tree.BranchOfRun(branch);
  draft->record.prefills.push_back({candidate.request->id, {number, computed_tokens, leaf.end_position()}});
}

// Where the row of the last token has been run, but its logits were not asked for: it is run again. False: it
// cannot be, because the last token is part of what others share; the path has to be opened anew.
bool Scheduler::Impl::MakeLastRowRunAgain(Branch* branch) {
  const KvNode& leaf = tree_.node(branch->leaf);
  if (leaf.issued_end() < leaf.end_position()) return true;
  if (leaf.size() == 0 || leaf.size() - 1 < leaf.indexed_tokens) return false;
  tree_.Reissue(branch->leaf, leaf.end_position() - 1);
  return true;
}

// Issues up to `rows` rows of a node; fewer where blocks are short. Returns how many.
int32_t Scheduler::Impl::IssueNode(const Candidate& candidate, int32_t node, int32_t rows, StepDraft* draft) {
  if (rows <= 0) return 0;
  Request& request = *candidate.request;
  const int32_t blocks = tree_.BlocksForRows(node, rows);
  if (!MakeRoom(&request, *candidate.branch, blocks)) {
    const int32_t held = static_cast<int32_t>(tree_.node(node).blocks.size());
    const int32_t room =
        (held + allocator_.free_blocks()) * tree_.block_tokens() - tree_.node(node).issued_tokens;
    rows = std::min(rows, room);
    if (rows <= 0) return 0;
  }
  const int64_t first = tree_.node(node).issued_end();
  const int32_t live_before = tree_.live_blocks();
  tree_.IssueRows(node, rows, &draft->memory);
  NoteHeld(request, live_before);
  candidate.branch->last_step = tree_.current_step();
  request.last_step = tree_.current_step();
  draft->rows += rows;
  request.usage.computed_tokens += rows;
  counters_.computed_tokens += rows;
  const int64_t weight = rows * (first + 1) + int64_t{rows} * (rows - 1) / 2;
  std::vector<StepRecord::Share>& shares = draft->record.shares;
  if (shares.empty() || shares.back().request != request.id) shares.push_back({request.id, 0});
  shares.back().weight += weight;
  draft->record.total_weight += weight;
  return rows;
}

// What is drawn, scored or completed by the rows [first_position, end_position) of the branch's leaf.
void Scheduler::Impl::AttachUses(const Candidate& candidate, int32_t first_position, int32_t end_position,
                                 StepDraft* draft) {
  Branch& branch = *candidate.branch;
  Request& request = *candidate.request;
  const int32_t leaf = branch.leaf;
  for (int32_t position = first_position; position < end_position; ++position) {
    const size_t index = static_cast<size_t>(position - tree_.node(leaf).begin_position);
    if (tree_.node(leaf).tokens[index] == kUnknownToken)
      draft->slot_uses.push_back({leaf, position, branch.slot});
  }
  if (branch.run != nullptr) AttachRunUses(&request, &branch, end_position, draft);
  if (end_position < tree_.node(leaf).end_position()) return;
  if (branch.run != nullptr) {
    branch.read_done = true;
    draft->record.reads.push_back({request.id, branch.number});
  }
  if (branch.work == BranchWork::kDecode && !branch.finished) {
    DrawToken(&request, &branch, leaf, end_position - 1, draft);
    tree_.Append(leaf, kUnknownToken);
  }
  if (!branch.tail_pending) return;
  branch.tail_pending = false;
  DrawFirstTokens(&request, std::exchange(branch.awaiting, {}), leaf, end_position - 1, draft);
}

// What the run's rows before `end_position` are needed for, as far as it has not been asked for.
void Scheduler::Impl::AttachRunUses(Request* request, Branch* run, int32_t end_position, StepDraft* draft) {
  RequestTree& tree = request->tree;
  for (int32_t position = 0; (position = tree.NextUsePosition(*run)) < end_position;) {
    const RunUse& use = run->run->uses[static_cast<size_t>(run->uses_issued++)];
    if (use.kind == RunUse::Kind::kDraw) {
      DrawFirstTokens(request, tree.TakeAwaiting(run, use), run->leaf, position, draft);
      continue;
    }
    const Branch& branch = tree.branch(tree.UseBranch(*run, use));
    if (branch.dead) continue;
    if (use.kind == RunUse::Kind::kRead) {
      draft->record.reads.push_back({request->id, branch.number});
      continue;
    }
    draft->input->scores.push_back({.logit_index = 0,
                                    .token_id = branch.tokens[static_cast<size_t>(use.token)],
                                    .top_logprobs = tree.given(branch)->top_logprobs});
    draft->score_uses.push_back({run->leaf, position});
    draft->record.scores.push_back({request->id, branch.number});
  }
}

// Of branches that wait for the logits at `position` of the path to `leaf`.
void Scheduler::Impl::DrawFirstTokens(Request* request, const std::vector<int32_t>& awaiting, int32_t leaf,
                                      int32_t position, StepDraft* draft) {
  for (const int32_t number : awaiting) {
    Branch& child = request->tree.branch(number);
    child.work = BranchWork::kDecode;
    DrawToken(request, &child, leaf, position, draft);
    Reconsider(request, &child);
  }
}

// Draws the next token of `drawing` from the logits at `position` of the path to `leaf`.
void Scheduler::Impl::DrawToken(Request* request, Branch* drawing, int32_t leaf, int32_t position,
                                StepDraft* draft) {
  StepInput& input = *draft->input;
  const GenerateSpec& spec = *request->tree.generate(*drawing);
  if (drawing->slot < 0) {
    if (free_slots_.empty()) free_slots_.push_back(slots_++);
    drawing->slot = free_slots_.back();
    free_slots_.pop_back();
    if (spec.sampling.UsesHistory()) {
      SlotHistory history{.slot = drawing->slot, .prompt_tokens = {}, .generated_tokens = {}};
      request->tree.PathHistory(*drawing, &history);
      input.histories.push_back(std::move(history));
    }
  }
  RequestTree::Node& node = request->tree.node(drawing->node);
  if (node.params_step != draft->record.step_id) {
    node.params_step = draft->record.step_id;
    node.params_index = static_cast<int32_t>(input.params.size());
    input.params.push_back(spec.sampling);
  }
  input.samples.push_back({.logit_index = 0,
                           .slot = drawing->slot,
                           .params = node.params_index,
                           .position = position + 1,
                           .stream = drawing->stream,
                           .top_logprobs = spec.top_logprobs});
  draft->sample_uses.push_back({leaf, position});
  draft->record.samples.push_back({request->id, drawing->number});
  ++drawing->drawn;
  request->drew = true;
}

// Numbers the rows, and turns positions into rows.
void Scheduler::Impl::AssembleStep(StepDraft* draft) {
  StepInput& input = *draft->input;
  const int64_t begin_us = options_.now_us ? options_.now_us() : 0;
  input.step_id = draft->record.step_id;
  input.zero_blocks = std::move(draft->memory.zero_blocks);
  input.copies = std::move(draft->memory.copies);
  builder_.Build(&input.batch, &input.tokens);

  const auto row_of = [&](const auto& use) {
    return static_cast<size_t>(builder_.RowOf(input.batch, use.node, use.position));
  };
  for (const StepDraft::SlotUse& use : draft->slot_uses) input.tokens[row_of(use)].slot = use.slot;
  std::vector<int32_t> logit_of(input.tokens.size(), -1);
  for (const StepDraft::SampleUse& use : draft->sample_uses) logit_of[row_of(use)] = 0;
  for (const StepDraft::SampleUse& use : draft->score_uses) logit_of[row_of(use)] = 0;
  for (size_t row = 0; row < logit_of.size(); ++row) {
    if (logit_of[row] < 0) continue;
    logit_of[row] = static_cast<int32_t>(input.logit_rows.size());
    input.logit_rows.push_back(static_cast<int32_t>(row));
  }
  for (size_t i = 0; i < input.samples.size(); ++i)
    input.samples[i].logit_index = logit_of[row_of(draft->sample_uses[i])];
  for (size_t i = 0; i < input.scores.size(); ++i)
    input.scores[i].logit_index = logit_of[row_of(draft->score_uses[i])];

  input.plan = PlanAttention(input.batch, options_.attention, options_.plan);
  draft->record.accounting = input.plan.accounting;
  if (options_.now_us) counters_.plan_us += options_.now_us() - begin_us;
}

void Scheduler::Impl::CheckStep(const StepInput& input) const {
  const auto require = [](const Status& status) {
    ESPALIER_CHECK_MSG(status.ok(), status.ok() ? std::string() : status.error().ToString());
  };
  require(tree_.Check());
  require(ValidateBatch(input.batch));
  require(CheckPlan(input.batch, input.plan, options_.plan));
  for (const RowToken& token : input.tokens) ESPALIER_CHECK(token.token_id >= 0 || token.slot >= 0);
}

}  // namespace espalier
