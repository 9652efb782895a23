#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/step_input.h"

namespace espalier::test {

struct FakeModelOptions {
  int32_t vocab_size = 31;
  std::vector<int32_t> eos_token_ids = {2};
  double eos_probability = 0.02;   // how often an end-of-sequence token is by far the most likely one
  double error_probability = 0.0;  // how often logits are not finite: what is sampled and scored then fails
};

// Tokens of a branch that penalties count.
struct FakeHistory {
  std::vector<int32_t> prompt_tokens;
  std::vector<int32_t> generated_tokens;
};

// A language model whose next-token distribution is a hash of the whole sequence before it: one wrong,
// missing or misplaced token anywhere changes everything after it. Pure.
class FakeModel {
 public:
  explicit FakeModel(FakeModelOptions options) : options_(std::move(options)) {}
  const FakeModelOptions& options() const { return options_; }

  // The state after one more token; the empty sequence is 0.
  static uint64_t Extend(uint64_t state, int32_t position, int32_t token_id);
  static uint64_t StateOf(std::span<const int32_t> token_ids);

  std::vector<float> Logits(
      uint64_t state) const;  // [vocab_size]; the first is NaN where they are not finite

  // A sample, a function of all its arguments: every field of `params` changes which token is sampled.
  TokenResult Sample(const std::vector<float>& logits, const SamplingParams& params,
                     const FakeHistory& history, uint64_t stream, int32_t position,
                     int32_t top_logprobs) const;
  TokenResult Score(const std::vector<float>& logits, int32_t token_id, int32_t top_logprobs) const;

 private:
  FakeModelOptions options_;
};

}  // namespace espalier::test
