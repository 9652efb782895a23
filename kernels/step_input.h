#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/plan/attention_plan.h"
#include "kernels/plan/tree_batch.h"

namespace espalier {

// How the next token is sampled. Ranges are checked by the server; out of range here is a programming error.
// Order of operations: logit bias and penalties, temperature, top-k, min-p, top-p, sampling. Whatever the
// parameters, the most likely token is never cut off. Where a penalty carries the largest logit beyond what
// fp32 holds, it leaves no other one a chance: the token with the largest logit before penalties is taken, of
// those that it carried there.
struct SamplingParams {
  float temperature = 1.0F;  // 0: greedy (ties to the lowest token id); otherwise in (0, 100]
  int32_t top_k = 0;         // keep the k most likely tokens; 0: all
  float top_p = 1.0F;        // (0, 1]: keep the fewest most likely tokens whose probabilities add up to it
  float min_p = 0.0F;        // [0, 1]: keep tokens at least this likely relative to the most likely one
  float repetition_penalty =
      1.0F;  // (0, 10]: divides positive, multiplies negative logits of all tokens of the path
  float presence_penalty = 0.0F;   // [-2, 2]: subtracted from logits of tokens already generated on the path
  float frequency_penalty = 0.0F;  // [-2, 2]: the same, times how often
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id, added to its logit

  // 1 / temperature; 0 where sampling is greedy: at temperature 0, and below 2.94e-39, where fp32 does not
  // hold the inverse and a token less likely than the most likely one has no chance.
  float InverseTemperature() const {
    const float inverse = temperature > 0.0F ? 1.0F / temperature : 0.0F;
    return inverse <= std::numeric_limits<float>::max() ? inverse : 0.0F;
  }
  bool UsesHistory() const {
    return repetition_penalty != 1.0F || presence_penalty != 0.0F || frequency_penalty != 0.0F;
  }
};

// A row's input token: given, or the last token sampled for a sequence slot (which the host may not know
// yet).
struct RowToken {
  int32_t token_id = -1;       // >= 0: this token
  int32_t sequence_slot = -1;  // otherwise the last token sampled for this sequence slot
};

// Copies the first `tokens` KV slots of a block, all layers, K and V.
struct BlockCopy {
  int32_t source = 0;
  int32_t destination = 0;
  int32_t tokens = 0;
};

// The tokens of a path that penalties count, by pieces: those of `above` come before. Paths share the pieces
// that they have in common, so that what a piece counts need be found once. A path has at most
// kMaxHistoryPieces of them.
struct PathHistory {
  std::shared_ptr<const PathHistory> above;  // null: none
  int32_t pieces = 1;                        // this one included
  std::vector<int32_t> prompt_tokens;        // counted by repetition_penalty only
  std::vector<int32_t> generated_tokens;     // counted by all three penalties
};
inline constexpr int32_t kMaxHistoryPieces = 64;

// Sets the penalty history of a sequence slot. Sent when a branch with UsesHistory() starts; tokens sampled
// for the sequence afterwards are added by the backend.
struct SequenceHistory {
  SequenceHistory() = default;
  SequenceHistory(int32_t of, std::shared_ptr<const PathHistory> tokens)
      : sequence_slot(of), path(std::move(tokens)) {}
  // Of a path that shares nothing.
  SequenceHistory(int32_t of, std::vector<int32_t> prompt_tokens, std::vector<int32_t> generated_tokens)
      : SequenceHistory(of, std::make_shared<const PathHistory>(PathHistory{
                                nullptr, 1, std::move(prompt_tokens), std::move(generated_tokens)})) {}

  int32_t sequence_slot = 0;
  std::shared_ptr<const PathHistory> path;

  // Calls each(piece) for the pieces of the path, last first.
  template <typename Each>
  void ForEachPiece(const Each& each) const {
    for (const PathHistory* piece = path.get(); piece != nullptr; piece = piece->above.get()) each(*piece);
  }
};

// Samples a token for one branch. Many requests may name the same row of logits.
struct SampleRequest {
  int32_t logit_index = 0;    // into StepInput::logit_rows
  int32_t sequence_slot = 0;  // sequence slot: its last token becomes the sampled one
  int32_t params = 0;         // into StepInput::params
  int32_t position = 0;       // absolute position of the sampled token: the counter of the random stream
  uint64_t stream = 0;        // key of the random stream, from the seed and the path of branch ordinals
  int32_t top_logprobs = 0;
};

// Asks for the log-probability of a known token.
struct ScoreRequest {
  int32_t logit_index = 0;
  int32_t token_id = 0;
  int32_t top_logprobs = 0;
};

// All that a backend needs to know about one step. Order of effects: zero_blocks, copies, histories, rows
// (write KV, then attention), samples. Steps take effect in the order of issue.
struct StepInput {
  uint64_t step_id = 0;
  std::vector<int32_t> zero_blocks;  // newly allocated blocks: zeroed, so that masked KV slots are finite
  std::vector<BlockCopy> copies;     // sources are blocks written by earlier steps
  std::vector<SequenceHistory> histories;
  TreeBatch batch;
  AttentionPlan plan;
  std::vector<RowToken> tokens;     // [rows]
  std::vector<int32_t> logit_rows;  // rows whose logits are needed, ascending, without repeats
  std::vector<SamplingParams> params;
  std::vector<SampleRequest> samples;
  std::vector<ScoreRequest> scores;
  bool return_logits = false;  // tests: StepResult::logits is filled
};

// Log-probabilities are natural, of the model's own distribution: before bias, penalties, temperature and
// cuts.
struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0.0F;
};

// The answer to a SampleRequest or a ScoreRequest. Logits are finite unless the model's arithmetic
// overflowed; a row with a single one that is infinite or not a number has no distribution. Every answer from
// such a row has failed: nothing was sampled or scored. The sequence slot then holds token 0, so that steps
// that are under way can run.
struct TokenResult {
  int32_t token_id = 0;                    // of a failed sample: 0
  float logprob = 0.0F;                    // finite; NaN where failed
  std::vector<TokenLogprob> top_logprobs;  // most likely first; ties to the lower id; none where failed

  bool failed() const { return std::isnan(logprob); }
};

struct StepTimes {
  int64_t forward_us = 0;    // whole forward pass with sampling, as the device saw it
  int64_t attention_us = 0;  // part of it: tree attention, all layers
};

struct StepResult {
  uint64_t step_id = 0;
  std::vector<TokenResult> samples;  // as StepInput::samples
  std::vector<TokenResult> scores;   // as StepInput::scores
  std::vector<float> logits;         // [logit_rows, vocab] if asked for
  StepTimes times;
};

}  // namespace espalier
