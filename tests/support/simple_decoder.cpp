#include "tests/support/simple_decoder.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "kernels/plan/attention_plan.h"

namespace espalier::test {

int32_t SimpleDecoder::AddSequence(std::vector<int32_t> tokens) {
  sequences_.push_back({std::move(tokens), {}, 0});
  return static_cast<int32_t>(sequences_.size()) - 1;
}

int32_t SimpleDecoder::Pending(int32_t sequence) {
  return static_cast<int32_t>(At(sequence).tokens.size()) - At(sequence).computed;
}

void SimpleDecoder::Clear() {
  sequences_.clear();
  next_block_ = 0;
}

void SimpleDecoder::AddPiece(const Piece& piece, StepInput& step) {
  Sequence& sequence = At(piece.sequence);
  ESPALIER_CHECK(piece.rows >= 1 && piece.rows <= Pending(piece.sequence));
  const int32_t block_tokens = runner_.info().block_tokens;
  const int32_t needed = (sequence.computed + piece.rows + block_tokens - 1) / block_tokens;
  while (static_cast<int32_t>(sequence.blocks.size()) < needed) {
    ESPALIER_CHECK(next_block_ < runner_.info().kv_blocks);
    step.zero_blocks.push_back(next_block_);
    sequence.blocks.push_back(next_block_++);
  }

  TreeBatch& batch = step.batch;
  const int32_t first_row = batch.rows();
  const auto node = static_cast<int32_t>(batch.nodes.size());
  batch.nodes.push_back({.parent = -1,
                         .begin_position = 0,
                         .cached_tokens = sequence.computed,
                         .first_block = static_cast<int32_t>(batch.blocks.size()),
                         .first_row = first_row,
                         .rows = piece.rows,
                         .subtree_end_row = first_row + piece.rows});
  batch.blocks.insert(batch.blocks.end(), sequence.blocks.begin(), sequence.blocks.begin() + needed);
  for (int32_t i = 0; i < piece.rows; ++i) {
    const int32_t position = sequence.computed + i;
    batch.row_node.push_back(node);
    batch.row_position.push_back(position);
    batch.row_subtree_end.push_back(first_row + piece.rows);
    step.tokens.push_back({.token_id = sequence.tokens[static_cast<size_t>(position)], .sequence_slot = -1});
    if (piece.logits == Logits::kAll || (piece.logits == Logits::kLast && i + 1 == piece.rows))
      step.logit_rows.push_back(first_row + i);
  }
  sequence.computed += piece.rows;
  if (piece.logits == Logits::kNone) return;
  step.samples.push_back({.logit_index = static_cast<int32_t>(step.logit_rows.size()) - 1,
                          .sequence_slot = piece.sequence,
                          .params = 0,
                          .position = sequence.computed,
                          .stream = 0,
                          .top_logprobs = 0});
}

Result<StepResult> SimpleDecoder::Step(std::span<const Piece> pieces) {
  auto step = std::make_shared<StepInput>();
  step->step_id = next_step_++;
  step->batch.block_tokens = runner_.info().block_tokens;
  step->params.emplace_back();
  step->params.back().temperature = 0.0F;
  step->return_logits = true;
  for (const Piece& piece : pieces) AddPiece(piece, *step);
  if (auto status = ValidateBatch(step->batch); !status.ok()) return status.error();
  step->plan = PlanAttention(step->batch, runner_.info().attention, runner_.info().backend.plan);
  runner_.Issue(std::move(step));
  return runner_.Wait();
}

Result<std::vector<float>> SimpleDecoder::AllLogits(const std::vector<int32_t>& tokens, int32_t chunk) {
  Clear();
  const int32_t sequence = AddSequence(tokens);
  std::vector<float> logits;
  while (Pending(sequence) > 0) {
    const Piece piece{sequence, std::min(chunk, Pending(sequence)), Logits::kAll};
    auto result = Step({&piece, 1});
    if (!result) return result.error();
    logits.insert(logits.end(), result->logits.begin(), result->logits.end());
  }
  return logits;
}

Result<std::vector<std::vector<int32_t>>> SimpleDecoder::Greedy(
    const std::vector<std::vector<int32_t>>& prompts, int32_t new_tokens, int32_t max_rows) {
  Clear();
  std::vector<std::vector<int32_t>> out(prompts.size());
  for (const auto& prompt : prompts) AddSequence(prompt);
  while (true) {
    std::vector<Piece> pieces;
    int32_t rows = 0;
    for (int32_t i = 0; i < static_cast<int32_t>(prompts.size()) && rows < max_rows; ++i) {
      if (static_cast<int32_t>(out[static_cast<size_t>(i)].size()) >= new_tokens) continue;
      const int32_t count = std::min(Pending(i), max_rows - rows);
      pieces.push_back({i, count, count == Pending(i) ? Logits::kLast : Logits::kNone});
      rows += count;
    }
    if (pieces.empty()) return out;
    auto result = Step(pieces);
    if (!result) return result.error();
    size_t sample = 0;
    for (const Piece& piece : pieces) {
      if (piece.logits == Logits::kNone) continue;  // Within its prompt.
      const int32_t token = result->samples[sample++].token_id;
      out[static_cast<size_t>(piece.sequence)].push_back(token);
      Append(piece.sequence, token);
    }
  }
}

}  // namespace espalier::test
