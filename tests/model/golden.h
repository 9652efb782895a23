#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/model_runner.h"

namespace espalier::test {

// What transformers answers; see scripts/make_model_golden_files.py.
struct Golden {
  struct Row {
    int32_t position = 0;
    std::vector<float> values;  // [vocab]
  };

  std::string name;
  std::string config;  // of configs.json: the model's config.json, with hashed weights of `seed`
  uint64_t seed = 0;
  std::vector<int32_t> prompt;
  std::vector<int32_t> greedy;
  std::vector<float> margins;  // of the greedy choices
  std::vector<Row> logits;     // at positions of prompt + greedy
  std::vector<int32_t> text;
  std::vector<double> logprobs;               // [text - 1], of each next token
  double transformers_bf16_mean_error = 0.0;  // of logprobs
  double transformers_bf16_max_error = 0.0;
};

std::vector<Golden> ReadGoldenFile(const std::filesystem::path& file);

// How far a runner is from the golden figures.
struct GoldenReport {
  double logit_error = 0.0;    // max |difference| / max |logit| over the rows
  int32_t greedy_checked = 0;  // choices up to the first margin under 1e-3
  int32_t greedy_equal = 0;    // of them, up to the first that differs
  int32_t best_checked = 0;    // choices with a margin of 1e-3 at least
  int32_t best_equal = 0;      // of them, each behind the same tokens: those with the same most likely token
  double logprob_mean_error = 0.0;
  double logprob_max_error = 0.0;
};

// Logits and log-probabilities by prefill in chunks of `chunk` tokens, greedy tokens by decoding.
GoldenReport Compare(const Golden& golden, ModelRunner& runner, int32_t chunk);

}  // namespace espalier::test
