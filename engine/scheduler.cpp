#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "engine/tree_cost.h"

namespace espalier {

Scheduler::Scheduler(SchedulerOptions options, std::shared_ptr<const Tokenizer> tokenizer)
    : options_(std::move(options)),
      tokenizer_(std::move(tokenizer)),
      context_{tokenizer_.get(), options_.eos_token_ids, options_.max_path_tokens},
      tails_(options_.engine.total_blocks, options_.engine.block_tokens, &requests_),
      pressure_(options_.policy, &requests_, &tails_),
      opener_(options_.policy, &tails_, &pressure_, &usage_),
      updater_(options_.policy, &requests_, &tails_, &sequence_slots_, &usage_, &events_),
      turns_(options_.policy, options_.engine.max_batch_rows, &requests_),
      admission_(options_.policy, &requests_, &tails_, &pressure_, &turns_, &updater_, &events_),
      builder_(options_, &tails_, &pressure_, &opener_, &sequence_slots_, &usage_),
      rows_(options_, &requests_, &tails_, &opener_, &turns_, &builder_) {
  ESPALIER_CHECK(options_.steps_in_flight == 1 || options_.steps_in_flight == 2);
  ESPALIER_CHECK(options_.engine.max_batch_rows > 0 && options_.engine.prefill_chunk_tokens > 0);
  SetAttentionMode(options_.engine.attention_mode);
}

// Life of requests.

std::shared_ptr<ScheduledRequest> Scheduler::Prepare(TreeRequest request) const {
  const int32_t first_rows = FirstBranches(request);
  return std::make_shared<ScheduledRequest>(std::move(request), &context_, first_rows);
}

void Scheduler::Submit(uint64_t id, std::shared_ptr<ScheduledRequest> request) {
  const TreeRequest& content = request->tree.request();
  const auto prompt_tokens =
      static_cast<int32_t>(std::get<GivenSpec>(content.nodes[0].content).token_ids.size());
  tails_.Enter(request.get());
  requests_.Add(id, prompt_tokens / options_.engine.block_tokens + 2, std::move(request));
}

void Scheduler::Abort(uint64_t id, const Error& reason) {
  ScheduledRequest* request = requests_.Find(id);
  if (request == nullptr) return;
  usage_.AddCancelled();
  updater_.Abort(request, reason);
}

void Scheduler::Close(uint64_t id) {
  ScheduledRequest* request = requests_.Find(id);
  if (request != nullptr) updater_.Close(request);
}

void Scheduler::FailAll(const Error& error) {
  failed_ = true;
  while (!requests_.empty()) updater_.Abort(requests_.any(), error);
}

// Steps.

std::shared_ptr<const StepInput> Scheduler::Next() {
  if (failed_ || steps_in_flight() >= options_.steps_in_flight) return nullptr;
  // Planning without a result may still have dropped tail nodes: with nothing in flight their blocks are free
  // by the next attempt.
  for (int32_t attempt = 1; requests_.runnable(); ++attempt) {
    std::shared_ptr<const StepInput> step = PlanStep();
    if (step != nullptr || steps_in_flight() > 0 || updater_.expanding()) return step;
    if (attempt < options_.policy.planning_attempts || !requests_.runnable()) continue;
    // Everything else has given way, and still not one path fits: ValidateTreeRequest was not asked.
    updater_.Abort(requests_.first(),
                   {ErrorCode::kResourceExhausted, "", "a path of the tree does not fit into the KV cache"});
    attempt = 0;
  }
  return nullptr;
}

std::shared_ptr<const StepInput> Scheduler::PlanStep() {
  tails_.BeginStep(step_ + 1);
  pressure_.BeginStep();
  builder_.Begin(step_ + 1);
  admission_.AdmitRequests();
  updater_.FinalizeTouched(step_, /*committed=*/false);
  rows_.FillStep();
  PlannedStep step = builder_.Finish();
  const bool issued = step.input != nullptr;
  tails_.EndStep(issued);
  if (!issued) return nullptr;
  ++step_;
  in_flight_.push_back(std::move(step.record));
  if (options_.engine.check_invariants) CheckStep(*step.input);
  return step.input;
}

void Scheduler::Commit(const StepResult& result) {
  ESPALIER_CHECK(!in_flight_.empty() && in_flight_.front().step_id == result.step_id);
  const StepRecord record = std::move(in_flight_.front());
  in_flight_.pop_front();
  tails_.mutable_kv().CommitStep(record.step_id);
  updater_.Commit(record, result);
  updater_.FinalizeTouched(record.step_id, /*committed=*/true);
  if (!options_.engine.check_invariants && !requests_.empty()) return;
  const KvTree& kv = tails_.kv();
  const Status status = options_.engine.check_invariants ? kv.Check() : kv.CheckSums(/*idle=*/true);
  ESPALIER_CHECK_MSG(status.ok(), status.ok() ? std::string() : status.error().ToString());
}

void Scheduler::CheckStep(const StepInput& input) const {
  const auto require = [](const Status& status) {
    ESPALIER_CHECK_MSG(status.ok(), status.ok() ? std::string() : status.error().ToString());
  };
  require(CheckInvariants());
  require(ValidateBatch(input.batch));
  require(CheckPlan(input.batch, input.plan, options_.plan));
  for (const RowToken& token : input.tokens) ESPALIER_CHECK(token.token_id >= 0 || token.sequence_slot >= 0);
}

// Reports.

EngineStats Scheduler::Stats() const {
  EngineStats stats = usage_.totals();
  stats.block_tokens = options_.engine.block_tokens;
  stats.blocks_total = tails_.blocks().total_blocks();
  stats.blocks_free = tails_.blocks().free_blocks();
  stats.blocks_indexed = tails_.kv().indexed_blocks();
  stats.blocks_live = tails_.kv().live_blocks() + tails_.blocks().retiring_blocks();
  stats.requests_active = requests_.size();
  stats.requests_queued = requests_.peers().waiting();
  stats.peers_active = requests_.peers().active();
  stats.branches_active = tails_.running();
  stats.preemptions = pressure_.preemptions();
  stats.evicted_blocks = tails_.kv().evicted_blocks();
  return stats;
}

TreeSnapshot Scheduler::Snapshot() const {
  const KvTree& kv = tails_.kv();
  TreeSnapshot snapshot;
  for (int32_t id = 0; id < kv.node_capacity(); ++id) {
    const KvNode& node = kv.node(id);
    if (!node.alive) continue;
    KvNodeSnapshot& seen = snapshot.nodes.emplace_back();
    seen.id = id;
    seen.parent = node.parent;
    seen.begin_position = node.begin_position;
    seen.tokens = node.size();
    seen.computed_tokens = kv.ComputedTokens(id);
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

int32_t Scheduler::FlushCache() { return tails_.mutable_kv().Evict(tails_.blocks().total_blocks()); }

std::vector<int32_t> Scheduler::FreeBlocks() const { return tails_.blocks().free_list(); }

}  // namespace espalier
