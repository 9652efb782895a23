// The scheduler with a real forward pass: a random Llama in fp32 on the naive backend, run as on a device
// (operations executed late, activations poisoned between steps). The same request gives the same tokens and
// the same log-probabilities alone, in a batch, cold, from the cache and after preemption, with one and with
// two steps in flight.
#include <map>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "tests/engine/fakes/async_backend.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

constexpr int32_t kBlockTokens = 8;
constexpr int32_t kMaxRows = 24;

LlamaConfig Config() {
  LlamaConfig config;
  config.vocab_size = 64;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.layers = 2;
  config.query_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.max_positions = 256;
  config.tie_word_embeddings = true;
  config.eos_token_ids = {};
  return config;
}

struct Setting {
  int32_t kv_blocks = 100;
  int32_t steps_in_flight = 1;
  AttentionMode mode = AttentionMode::kFlatten;
  uint64_t shuffle_seed = 0;
};

class Driver {
 public:
  explicit Driver(const Setting& setting)
      : llama_(test::MakeAsyncLlama(Config(), 5, setting.kv_blocks, kBlockTokens, setting.steps_in_flight,
                                    kMaxRows)),
        scheduler_(Options(setting), nullptr) {}

  uint64_t Submit(const TreeRequest& request) {
    const EngineLimits limits = {.max_branches = 64,
                                 .max_path_tokens = llama_.runner->info().max_positions,
                                 .vocab_size = llama_.runner->info().vocab_size,
                                 .block_tokens = kBlockTokens,
                                 .total_blocks = llama_.runner->info().kv_blocks};
    const Status status = ValidateTreeRequest(request, limits);
    CAPTURE(status.ok() ? std::string() : status.error().ToString());
    REQUIRE(status.ok());
    scheduler_.Submit(++last_id_, request);
    return last_id_;
  }

  // Ends when every request has; answers by id.
  std::map<uint64_t, TreeFinished> Run() {
    std::map<uint64_t, TreeFinished> answers;
    while (!scheduler_.idle()) {
      while (std::shared_ptr<const StepInput> step = scheduler_.Next()) {
        ++steps_;
        llama_.runner->Issue(std::move(step));
      }
      REQUIRE(scheduler_.steps_in_flight() > 0);
      const Result<StepResult> result = llama_.runner->Wait();
      REQUIRE(result.ok());
      scheduler_.Commit(*result);
      for (RequestEvent& event : scheduler_.TakeEvents()) {
        REQUIRE_FALSE(std::holds_alternative<Error>(event.event));
        if (auto* finished = std::get_if<TreeFinished>(&event.event)) answers[event.request_id] = *finished;
      }
    }
    return answers;
  }

  EngineStats Stats() const { return scheduler_.Stats(); }
  int64_t steps() const { return steps_; }
  int64_t attention_calls() const { return llama_.backend->attention_calls(); }

 private:
  SchedulerOptions Options(const Setting& setting) const {
    const ModelInfo& info = llama_.runner->info();
    SchedulerOptions options;
    options.engine.block_tokens = kBlockTokens;
    options.engine.total_blocks = info.kv_blocks;
    options.engine.max_batch_rows = kMaxRows;
    options.engine.prefill_chunk_tokens = 10;
    options.engine.attention_mode = setting.mode;
    options.engine.check_invariants = true;
    options.attention = info.attention;
    options.plan = info.backend.plan;
    options.steps_in_flight = setting.steps_in_flight;
    options.max_path_tokens = info.max_positions;
    options.shuffle_seed = setting.shuffle_seed;
    return options;
  }

  test::AsyncLlama llama_;
  Scheduler scheduler_;
  uint64_t last_id_ = 0;
  int64_t steps_ = 0;
};

std::vector<int32_t> Prompt(int32_t tokens, int32_t family) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < tokens; ++i) prompt.push_back((i * i * 7 + i * 3 + family * 11) % 64);
  return prompt;
}

GenerateSpec Generate(int32_t branches, int32_t max_new_tokens, float temperature) {
  GenerateSpec spec;
  spec.branches = branches;
  spec.max_new_tokens = max_new_tokens;
  spec.sampling.temperature = temperature;
  return spec;
}

// Greedy chains, sampled trees with a select, verdicts and penalties.
std::vector<TreeRequest> Requests() {
  std::vector<TreeRequest> requests(4);
  requests[0].nodes = {{"p", -1, GivenSpec{Prompt(45, 1)}}, {"a", 0, Generate(1, 24, 0.0F)}};
  requests[1].nodes = {{"p", -1, GivenSpec{Prompt(45, 1)}}, {"a", 0, Generate(3, 18, 0.0F)}};
  requests[1].nodes[0].content = GivenSpec{Prompt(38, 1)};
  requests[2].nodes = {{"p", -1, GivenSpec{Prompt(21, 2)}},
                       {"t", 0, Generate(4, 7, 1.0F)},
                       {"v", 1, GivenSpec{{3, 4}, true, 2}},
                       {"s", 2, SelectSpec{2, SelectScore::kLatestVerdict, SelectScope::kLevel}},
                       {"e", 3, Generate(2, 9, 0.0F)}};
  requests[3].nodes = {{"p", -1, GivenSpec{Prompt(30, 3)}}, {"a", 0, Generate(4, 20, 0.8F)}};
  std::get<GenerateSpec>(requests[3].nodes[1].content).sampling.repetition_penalty = 1.2F;
  std::get<GenerateSpec>(requests[3].nodes[1].content).sampling.frequency_penalty = 0.3F;
  return requests;
}

// Tokens and log-probabilities of every branch, by its path: numbers depend on when branches were made.
using Answer = std::map<std::string, std::pair<std::vector<int32_t>, double>>;
Answer AnswerOf(const TreeFinished& finished) {
  std::vector<std::string> names = {""};
  std::map<std::pair<int32_t, int32_t>, int32_t> rank;
  Answer answer;
  for (const BranchSummary& branch : finished.branches) {
    const int32_t at = rank[{branch.parent, branch.node}]++;
    names.push_back(names[static_cast<size_t>(branch.parent)] + "/" + std::to_string(branch.node) + "." +
                    std::to_string(at));
    answer[names.back()] = {branch.token_ids, branch.sum_logprob};
  }
  return answer;
}

std::vector<Answer> AnswersAlone() {
  std::vector<Answer> answers;
  for (const TreeRequest& request : Requests()) {
    Driver driver(Setting{});
    const uint64_t id = driver.Submit(request);
    answers.push_back(AnswerOf(driver.Run().at(id)));
  }
  return answers;
}

// Submits all requests together, and once more when they have ended.
void CheckTogether(const Setting& setting, const std::vector<Answer>& alone, bool expect_preemption) {
  CAPTURE(setting.kv_blocks, setting.steps_in_flight, setting.shuffle_seed, Name(setting.mode));
  Driver driver(setting);
  for (int32_t round = 0; round < 2; ++round) {
    std::vector<uint64_t> ids;
    for (const TreeRequest& request : Requests()) ids.push_back(driver.Submit(request));
    const std::map<uint64_t, TreeFinished> answers = driver.Run();
    for (size_t i = 0; i < ids.size(); ++i) {
      CAPTURE(round, i);
      CHECK(AnswerOf(answers.at(ids[i])) == alone[i]);
    }
  }
  CHECK(driver.Stats().cached_tokens > 0);
  CHECK((driver.Stats().preemptions > 0) == expect_preemption);
  CHECK(driver.attention_calls() == driver.steps() * Config().layers);
}

TEST_CASE("answers of a real model do not depend on batch, cache, preemption or steps in flight") {
  const std::vector<Answer> alone = AnswersAlone();
  REQUIRE(alone[2].size() == 4 + 4 + 4);
  for (int32_t in_flight = 1; in_flight <= 2; ++in_flight) {
    CheckTogether({.kv_blocks = 100, .steps_in_flight = in_flight}, alone, false);
    CheckTogether({.kv_blocks = 20, .steps_in_flight = in_flight}, alone, true);
    CheckTogether({.kv_blocks = 100, .steps_in_flight = in_flight, .shuffle_seed = 3}, alone, false);
    CheckTogether({.kv_blocks = 100, .steps_in_flight = in_flight, .mode = AttentionMode::kSequence}, alone,
                  false);
  }
}

}  // namespace
}  // namespace espalier
