#include <memory>
#include <string>
#include <vector>

#include "kernels/sampling.h"
#include "tests/kernels/parity.h"
#include "tests/support/catch.h"

namespace espalier::test {

namespace {

constexpr int32_t kMaxRows = 128;
constexpr int32_t kBlocks = 16;

AttentionShape Shape(DType dtype, int32_t head_dim) {
  AttentionShape shape;
  shape.layers = 1;
  shape.query_heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = head_dim;
  shape.kv_dtype = dtype;
  return shape;
}

// One decode row that reads 40 tokens of blocks 3, 4 and 5 and writes its own into block 5.
TreeBatch ReadBlocks() {
  Random random(1);
  ForestBuilder builder;
  builder.Open(40);
  builder.Chain(1);
  builder.Close();
  TreeBatch batch = builder.Finish(random).batch;
  batch.blocks = {3, 4, 5};
  return batch;
}

constexpr int64_t kVocab = 500;
constexpr int64_t kHidden = 48;

}  // namespace

namespace {

void CheckZeroedAndCopied(std::vector<Candidate>& candidates, int32_t head_dim) {
  const auto run = [&](Backend& backend, DType dtype) {
    Random random(8);
    AttentionRig rig(backend, Shape(dtype, head_dim), kBlocks, 16, kMaxRows);
    rig.Fill(8);
    const auto qkv = RandomValues(random, static_cast<size_t>(rig.qkv_cols()));
    auto step = MakeStep(ReadBlocks());
    step->plan = PlanAttention(step->batch, Shape(dtype, head_dim), backend.info().plan);
    step->zero_blocks = {3, 5};
    step->copies = {{9, 4, 16}, {10, 5, 7}};
    return rig.Attend(step, qkv);
  };
  // The same by hand on ref: block 3 zero, 4 as 9, 5 as 10 for 7 tokens and zero for one.
  const auto ref = MakeRef(kMaxRows);
  const std::vector<float> expected = run(*ref, DType::kFloat32);
  const auto plain = MakeRef(kMaxRows);
  AttentionRig rig(*plain, Shape(DType::kFloat32, head_dim), kBlocks, 16, kMaxRows);
  rig.Fill(8);
  Random random(8);
  auto step = MakeStep(ReadBlocks());
  const auto qkv = RandomValues(random, static_cast<size_t>(rig.qkv_cols()));
  REQUIRE(NormalisedError(rig.Attend(step, qkv), expected) > 0.05);
  for (Candidate& candidate : candidates) {
    const double error = NormalisedError(run(*candidate.backend, candidate.dtype), expected);
    INFO(candidate.name << " dim " << head_dim << ": error " << error);
    REQUIRE(error <= Tolerance(candidate.dtype));
  }
}

}  // namespace

TEST_CASE("Blocks are zeroed and copied before rows read them") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  for (const int32_t head_dim : {32, 36}) CheckZeroedAndCopied(candidates, head_dim);
}

TEST_CASE("Logits, scores and greedy samples agree with ref") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  Random random(21);
  const auto head = RandomValues(random, kVocab * kHidden, 0.3F);
  // More rows of logits than a backend may care to hold at a time.
  constexpr int32_t kRows = 100;
  const auto hidden = RandomValues(random, kRows * kHidden);
  auto step = MakeStep(RowsOnly(kRows));
  step->params.resize(1);
  step->params[0].temperature = 0.0F;
  step->return_logits = true;
  for (int32_t row = 0; row < kRows; ++row) {
    step->logit_rows.push_back(row);
    step->samples.push_back({row, row, 0, 1, 0, 4});
    step->scores.push_back({row, Pick(random, 0, kVocab - 1), 2});
  }
  const auto run = [&](Backend& backend) {
    const MatrixId w = AddMatrix(backend, head, kVocab);
    const ActivationId rows = PoisonedActivation(backend, ActivationKind::kOperand, kHidden, kMaxRows);
    return RunStep(backend, step, [&] {
      backend.WriteActivation(rows, hidden);
      SampleAll(backend, rows, w, *step);
    });
  };
  const auto ref = MakeRef(kMaxRows);
  const StepResult expected = run(*ref);
  for (Candidate& candidate : candidates) {
    const StepResult actual = run(*candidate.backend);
    INFO(candidate.name);
    REQUIRE(NormalisedError(actual.logits, expected.logits) <= Tolerance(candidate.dtype));
    for (size_t i = 0; i < kRows; ++i) {
      const std::span<const float> logits = std::span<const float>(actual.logits).subspan(i * kVocab, kVocab);
      const LogitSummary summary = Summarize(logits);
      REQUIRE(actual.samples[i].token_id == summary.argmax);
      REQUIRE(actual.samples[i].logprob == Approx(summary.LogProbability(summary.max)).margin(1e-5));
      REQUIRE(actual.samples[i].top_logprobs.size() == 4);
      REQUIRE(actual.samples[i].top_logprobs[0].token_id == summary.argmax);
      const auto token = static_cast<size_t>(step->scores[i].token_id);
      REQUIRE(actual.scores[i].token_id == step->scores[i].token_id);
      REQUIRE(actual.scores[i].logprob == Approx(summary.LogProbability(logits[token])).margin(1e-5));
      REQUIRE(actual.scores[i].top_logprobs.size() == 2);
    }
  }
}

TEST_CASE("Sampled tokens follow their sequence slot into the next step, and penalties their history") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  Random random(22);
  const auto head = RandomValues(random, kVocab * kHidden, 0.3F);
  const auto table = RandomValues(random, kVocab * kHidden);
  auto first = MakeStep(RowsOnly(2));
  first->logit_rows = {1};
  first->params.resize(2);
  first->params[1].presence_penalty = 2.0F;
  first->params[1].repetition_penalty = 5.0F;
  first->histories = {{3, {4, 5, 6}, {7}}};
  for (int32_t slot = 0; slot < 6; ++slot) {
    first->samples.push_back({0, slot, slot == 3 ? 1 : 0, 2, static_cast<uint64_t>(slot) * 77, 0});
  }
  first->return_logits = true;
  const auto hidden = RandomValues(random, kHidden);

  auto second = MakeStep(RowsOnly(6));
  for (int32_t row = 0; row < 6; ++row) second->tokens[static_cast<size_t>(row)] = {-1, 5 - row};

  candidates.push_back({"ref", DType::kFloat32, MakeRef(kMaxRows)});
  for (Candidate& candidate : candidates) {
    Backend& backend = *candidate.backend;
    const MatrixId w = AddMatrix(backend, head, kVocab);
    const MatrixId t = AddTable(backend, table, kVocab);
    const ActivationId rows = PoisonedActivation(backend, ActivationKind::kOperand, kHidden, kMaxRows);
    const ActivationId embedded = PoisonedActivation(backend, ActivationKind::kResidual, kHidden, kMaxRows);
    const StepResult sampled = RunStep(backend, first, [&] {
      backend.WriteActivation(rows, hidden);
      SampleAll(backend, rows, w, *first);
    });
    INFO(candidate.name);
    SequenceStore history;
    history.SetHistory(first->histories[0]);
    for (size_t i = 0; i < 6; ++i) {
      const SampleRequest& request = first->samples[i];
      const auto& params = first->params[static_cast<size_t>(request.params)];
      const TokenResult expected = SampleToken(sampled.logits, Summarize(sampled.logits), params,
                                               history.Counts(request.sequence_slot), request.stream, 2, 0);
      REQUIRE(sampled.samples[i].token_id == expected.token_id);
    }
    std::vector<float> values;
    RunStep(backend, second, [&] {
      backend.Embed(t, embedded);
      values = backend.ReadActivation(embedded);
    });
    for (size_t row = 0; row < 6; ++row) {
      const auto token = static_cast<size_t>(sampled.samples[5 - row].token_id);
      const std::vector<float> expected(table.begin() + static_cast<std::ptrdiff_t>(token * kHidden),
                                        table.begin() + static_cast<std::ptrdiff_t>((token + 1) * kHidden));
      const std::vector<float> actual(values.begin() + static_cast<std::ptrdiff_t>(row * kHidden),
                                      values.begin() + static_cast<std::ptrdiff_t>((row + 1) * kHidden));
      REQUIRE(actual == expected);
    }
  }
}

TEST_CASE("A step without rows to sample is allowed") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  Random random(23);
  const auto head = RandomValues(random, kVocab * kHidden);
  for (Candidate& candidate : candidates) {
    Backend& backend = *candidate.backend;
    const MatrixId w = AddMatrix(backend, head, kVocab);
    const ActivationId rows = PoisonedActivation(backend, ActivationKind::kOperand, kHidden, kMaxRows);
    const ActivationId last = PoisonedActivation(backend, ActivationKind::kOperand, kHidden, kMaxRows);
    const auto hidden = RandomValues(random, 3 * kHidden);
    auto step = MakeStep(RowsOnly(3));
    step->step_id = 41;
    const StepResult result = RunStep(backend, step, [&] {
      backend.WriteActivation(rows, hidden);
      backend.GatherLogitRows(rows, last);
      SampleAll(backend, last, w, *step);
    });
    REQUIRE(result.step_id == 41);
    REQUIRE(result.samples.empty());
  }
}

}  // namespace espalier::test
