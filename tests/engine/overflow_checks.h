#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/backend_runner.h"
#include "tests/engine/llama_driver.h"
#include "tests/support/overflow_weights.h"

// A real model that overflows after one token, under the scheduler. Inside a test case.
namespace espalier::test {

inline constexpr int32_t kOverflowToken = 50;

inline Result<std::unique_ptr<ModelRunner>> OverflowLlama(OverflowWeights::At at,
                                                          const RunnerOptions& options) {
  ModelConfig config = Config();
  config.head_dim = 16;
  config.tie_word_embeddings = false;
  OverflowWeights weights(kOverflowToken, at, 5);
  return MakeModel(config, weights, "overflow", options);
}

inline GenerateSpec Biased(GenerateSpec spec, float bias) {
  spec.sampling.logit_bias = {{kOverflowToken, bias}};
  return spec;
}

// Siblings that sample the token and siblings that never do, a selection among both, and verdicts.
inline void CheckOverflow(ModelRunner& runner, const Setting& setting) {
  TreeRequest healthy;
  healthy.nodes = {{"p", -1, GivenSpec{Prompt(21, 1)}}, {"good", 0, Biased(Generate(3, 12, 1.0F), -100)}};
  TreeRequest mixed = healthy;
  mixed.nodes.push_back({"bad", 0, Biased(Generate(3, 12, 1.0F), 100)});
  mixed.nodes.push_back({"below", 2, Generate(2, 3, 1.0F)});
  mixed.nodes.push_back({"given", 2, GivenSpec{{3, 4}, true, 2}});
  TreeRequest scored;
  scored.nodes = {{"p", -1, GivenSpec{Prompt(21, 2)}},
                  {"before", 0, GivenSpec{{3, kOverflowToken}, true, 1}},
                  {"after", 0, GivenSpec{{3, kOverflowToken, 4}, true, 1}},
                  {"fine", 0, GivenSpec{{3, 4, 5}, true, 1}}};
  TreeRequest selected;
  selected.nodes = {{"p", -1, GivenSpec{Prompt(18, 3)}},
                    {"sample", 0, Biased(Generate(8, 4, 1.0F), 4)},
                    {"best", 1, SelectSpec{2, SelectScore::kSumLogprob, SelectScope::kLevel}},
                    {"on", 2, Biased(Generate(1, 2, 0.0F), -100)}};

  Driver driver(runner, setting);
  std::vector<uint64_t> ids;
  for (const TreeRequest* request : {&healthy, &mixed, &scored}) ids.push_back(driver.Submit(*request));
  std::vector<uint64_t> selections;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    selected.seed = seed;
    selections.push_back(driver.Submit(selected));
  }
  const std::map<uint64_t, TreeFinished> answers = driver.Run();

  const Answer alone = AnswerOf(answers.at(ids[0]));
  const Answer together = AnswerOf(answers.at(ids[1]));
  for (const auto& [path, branch] : alone) CHECK(together.at(path).first == branch.first);
  for (const BranchSummary& branch : answers.at(ids[1]).branches) {
    CAPTURE(branch.branch, branch.node);
    CHECK(std::isfinite(branch.sum_logprob));
    CHECK(branch.finish_reason == (branch.node == 1 ? FinishReason::kMaxTokens : FinishReason::kError));
    if (branch.node == 2) CHECK(branch.token_ids == std::vector<int32_t>{kOverflowToken});
    if (branch.node > 2) CHECK(branch.token_ids.empty());
  }
  for (const BranchSummary& branch : answers.at(ids[2]).branches)
    CHECK(branch.finish_reason == (branch.node == 2 ? FinishReason::kError : FinishReason::kNone));

  int32_t failed = 0;
  for (const uint64_t id : selections) {
    // Kept branches have a child: only where fewer than two others were left did they fail.
    int32_t fine = 0;
    int32_t kept_failed = 0;
    for (const BranchSummary& branch : answers.at(id).branches) {
      if (branch.node != 1) continue;
      const bool error = branch.finish_reason == FinishReason::kError;
      failed += error ? 1 : 0;
      fine += error ? 0 : 1;
      kept_failed += error && !branch.terminal ? 1 : 0;
    }
    CHECK(kept_failed == std::max(0, 2 - fine));
  }
  CHECK(failed > 0);
  CHECK(driver.Stats().blocks_live == 0);
}

}  // namespace espalier::test
