#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/scheduler.h"
#include "model/config.h"
#include "model/model_runner.h"
#include "tests/support/catch.h"

// A small Llama under the scheduler, for tests that compare its answers. Inside a test case.
namespace espalier::test {

inline constexpr int32_t kBlockTokens = 8;
inline constexpr int32_t kMaxRows = 24;

inline ModelConfig Config() {
  ModelConfig config;
  config.vocab_size = 64;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.layers.resize(2);
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

// The engine's loop around a scheduler and a runner of Config().
class Driver {
 public:
  Driver(ModelRunner& runner, const Setting& setting)
      : runner_(runner), scheduler_(Options(setting), nullptr) {}

  uint64_t Submit(const TreeRequest& request) {
    const EngineLimits limits = {.max_branches = 64,
                                 .max_path_tokens = runner_.info().max_positions,
                                 .vocab_size = runner_.info().vocab_size,
                                 .block_tokens = kBlockTokens,
                                 .total_blocks = runner_.info().kv_blocks};
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
        runner_.Issue(std::move(step));
      }
      REQUIRE(scheduler_.steps_in_flight() > 0);
      const Result<StepResult> result = runner_.Wait();
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

 private:
  SchedulerOptions Options(const Setting& setting) const {
    const ModelInfo& info = runner_.info();
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

  ModelRunner& runner_;
  Scheduler scheduler_;
  uint64_t last_id_ = 0;
  int64_t steps_ = 0;
};

inline std::vector<int32_t> Prompt(int32_t tokens, int32_t family) {
  std::vector<int32_t> prompt;
  prompt.reserve(static_cast<size_t>(tokens));
  for (int32_t i = 0; i < tokens; ++i) prompt.push_back((i * i * 7 + i * 3 + family * 11) % 64);
  return prompt;
}

inline GenerateSpec Generate(int32_t branches, int32_t max_new_tokens, float temperature) {
  GenerateSpec spec;
  spec.branches = branches;
  spec.max_new_tokens = max_new_tokens;
  spec.sampling.temperature = temperature;
  return spec;
}

// Greedy chains, sampled trees with a select, verdicts and penalties.
inline std::vector<TreeRequest> Requests() {
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
inline Answer AnswerOf(const TreeFinished& finished) {
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

// The answers of Requests(), each by a model of its own.
inline std::vector<Answer> AnswersAlone(const std::function<std::unique_ptr<ModelRunner>()>& make) {
  std::vector<Answer> answers;
  for (const TreeRequest& request : Requests()) {
    const std::unique_ptr<ModelRunner> runner = make();
    Driver driver(*runner, Setting{});
    const uint64_t id = driver.Submit(request);
    answers.push_back(AnswerOf(driver.Run().at(id)));
  }
  return answers;
}

// The answers of Requests(), all submitted together.
inline std::vector<Answer> AnswersTogether(Driver& driver) {
  std::vector<uint64_t> ids;
  for (const TreeRequest& request : Requests()) ids.push_back(driver.Submit(request));
  const std::map<uint64_t, TreeFinished> finished = driver.Run();
  std::vector<Answer> answers;
  answers.reserve(ids.size());
  for (const uint64_t id : ids) answers.push_back(AnswerOf(finished.at(id)));
  return answers;
}

}  // namespace espalier::test
