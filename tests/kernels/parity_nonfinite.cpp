#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tests/kernels/parity.h"
#include "tests/support/catch.h"

// What becomes of numbers beyond fp32: they reach the answer of whatever depends on them, as an error and
// never as a number, and nothing else.
namespace espalier::test {

namespace {

constexpr int32_t kMaxRows = 64;
constexpr int32_t kBlocks = 64;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Every candidate, with int8 weights too, and ref.
std::vector<Candidate> AllCandidates() {
  std::vector<Candidate> candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return {};
  for (Candidate& candidate : MakeCandidates(kMaxRows, WeightType::kInt8))
    candidates.push_back(std::move(candidate));
  candidates.push_back({"ref", DType::kFloat32, MakeRef(kMaxRows)});
  candidates.push_back(
      {"ref, int8", DType::kFloat32, MakeRef(kMaxRows, WeightType::kInt8), WeightType::kInt8});
  return candidates;
}

AttentionShape Shape(DType dtype) {
  return {.layers = 1, .query_heads = 4, .kv_heads = 2, .head_dim = 32, .kv_dtype = dtype};
}

// A prompt that begins in the second segment of 256 positions, and five branches with three rows each.
Forest Branches() {
  Random random(5);
  ForestBuilder builder;
  builder.Open(16 * 18);
  for (int32_t branch = 0; branch < 5; ++branch) {
    builder.Open(branch * 3);
    builder.Chain(3);
    builder.Close();
  }
  builder.Close();
  return builder.Finish(random, kBlocks);
}

bool AllFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

// Which part of a row's queries, keys and values gets which number.
struct BadNumbers {
  const char* name;
  float value;
  int32_t first;  // column of the row
  int32_t count;
  bool own_row_only;  // queries
};

constexpr int32_t kHeadDim = 32;
constexpr int32_t kKeys = 4 * kHeadDim;
constexpr int32_t kValues = 6 * kHeadDim;
constexpr BadNumbers kBadNumbers[] = {{"a key that is NaN", kNan, kKeys + 5, 1, false},
                                      {"infinite keys", kInfinity, kKeys, kHeadDim, false},
                                      {"infinite keys of every head", -kInfinity, kKeys, 2 * kHeadDim, false},
                                      {"a value that is NaN", kNan, kValues + 40, 1, false},
                                      {"an infinite value", kInfinity, kValues, 1, false},
                                      {"a query that is NaN", kNan, 3 * kHeadDim + 1, 1, true},
                                      {"infinite queries", kInfinity, 0, kHeadDim, true}};

}  // namespace

TEST_CASE("What attention cannot compute is not finite, and rows that do not see it keep their bits") {
  const std::vector<Candidate> candidates = AllCandidates();
  const Forest forest = Branches();
  const int32_t rows = forest.batch.rows();
  for (const Candidate& candidate : candidates) {
    const AttentionShape shape = Shape(candidate.dtype);
    AttentionRig rig(*candidate.backend, shape, kBlocks, 16, kMaxRows);
    Random random(9);
    const auto cols = static_cast<size_t>(rig.qkv_cols());
    const std::vector<float> clean = RandomValues(random, static_cast<size_t>(rows) * cols);
    auto step = MakeStep(forest.batch);
    PlanOptions options = candidate.backend->info().plan;
    for (const int32_t processors : {1, 64}) {
      options.processors = processors;  // in one piece, and cut
      step->plan = PlanAttention(step->batch, shape, options);
      rig.Fill(9);
      const std::vector<float> expected = rig.Attend(step, clean);
      REQUIRE(AllFinite(expected));
      const size_t out_cols = expected.size() / static_cast<size_t>(rows);
      for (const BadNumbers& bad : kBadNumbers) {
        const int32_t poisoned = 6;  // the first of the third branch's three
        std::vector<float> qkv = clean;
        std::fill_n(qkv.begin() + static_cast<std::ptrdiff_t>(poisoned * cols) + bad.first, bad.count,
                    bad.value);
        const std::vector<float> actual = rig.Attend(step, qkv);
        for (int32_t row = 0; row < rows; ++row) {
          const auto of_row = [&](const std::vector<float>& values) {
            return std::span(values).subspan(static_cast<size_t>(row) * out_cols, out_cols);
          };
          const std::vector<int32_t> seen = forest.RowsSeenBy(row);
          const bool sees = std::count(seen.begin(), seen.end(), poisoned) > 0;
          INFO(candidate.name << ", " << bad.name << ", row " << row << ", processors " << processors);
          if (row == poisoned || (sees && !bad.own_row_only)) {
            REQUIRE(!AllFinite(of_row(actual)));
          } else {
            REQUIRE(std::ranges::equal(of_row(actual), of_row(expected)));
          }
        }
      }
      rig.Attend(step, clean);
    }
  }
}

TEST_CASE("A row whose logits are not finite fails alone, and leaves token 0 in its sequence slots") {
  constexpr int32_t kVocab = 300;
  constexpr int32_t kHidden = 160;
  Random random(24);
  auto head = RandomValues(random, kVocab * kHidden, 0.3F);
  std::fill_n(head.begin() + 7 * kHidden, kHidden,
              0x1p118F);  // token 7: beyond fp32 where the sum is above 1024
  const auto table = RandomValues(random, kVocab * kHidden);
  std::vector<float> clean = RandomValues(random, 3 * kHidden);
  for (size_t row = 0; row < 3; ++row) {  // sums of zero
    for (size_t i = 0; i < kHidden; i += 2) clean[row * kHidden + i + 1] = -clean[row * kHidden + i];
  }
  const std::vector<std::function<void(float*)>> poisons = {
      [](float* row) { row[3] = kNan; },
      [](float* row) { row[159] = kInfinity; },
      [](float* row) { row[130] = -kInfinity; },
      [](float* row) { std::fill_n(row, kHidden, 100.0F); },
  };
  auto step = MakeStep(RowsOnly(3));
  step->logit_rows = {0, 1, 2};
  step->params.resize(4);
  step->params[1].temperature = 0.0F;
  step->params[2].top_p = 0.9F;
  step->params[3].presence_penalty = 1.0F;
  for (int32_t slot = 0; slot < 12; ++slot) {
    if (slot % 4 == 3) step->histories.push_back({slot, {1, 2}, {3}});
    step->samples.push_back({slot % 3, slot, slot % 4, 10, static_cast<uint64_t>(slot) * 31, slot % 5});
    step->scores.push_back({slot % 3, 20 * slot, slot % 2});
  }
  auto next = MakeStep(RowsOnly(12));
  for (int32_t slot = 0; slot < 12; ++slot) next->tokens[static_cast<size_t>(slot)] = {-1, slot};

  for (const Candidate& candidate : AllCandidates()) {
    Backend& backend = *candidate.backend;
    const MatrixId w = AddMatrix(backend, head, kVocab);
    const MatrixId t = AddTable(backend, table, kVocab);
    const ActivationId rows = PoisonedActivation(backend, ActivationKind::kOperand, kHidden, kMaxRows);
    const ActivationId embedded = PoisonedActivation(backend, ActivationKind::kResidual, kHidden, kMaxRows);
    const auto sample = [&](const std::vector<float>& hidden) {
      return RunStep(backend, step, [&] {
        backend.WriteActivation(rows, hidden);
        SampleAll(backend, rows, w, *step);
      });
    };
    const StepResult expected = sample(clean);
    for (const TokenResult& token : expected.samples) REQUIRE(!token.failed());
    for (size_t p = 0; p < poisons.size(); ++p) {
      std::vector<float> hidden = clean;
      poisons[p](hidden.data() + kHidden);
      const StepResult actual = sample(hidden);
      INFO(candidate.name << " poison " << p);
      const auto check = [](const TokenResult& got, const TokenResult& want, int32_t row, int32_t token) {
        REQUIRE(got.failed() == (row == 1));
        REQUIRE(got.token_id == (row == 1 ? token : want.token_id));
        REQUIRE(got.top_logprobs.size() == (row == 1 ? 0 : want.top_logprobs.size()));
        if (row != 1) REQUIRE(got.logprob == want.logprob);
      };
      for (size_t i = 0; i < step->samples.size(); ++i) {
        check(actual.samples[i], expected.samples[i], step->samples[i].logit_index, 0);
        check(actual.scores[i], expected.scores[i], step->scores[i].logit_index, step->scores[i].token_id);
      }
      std::vector<float> values;
      RunStep(backend, next, [&] {
        backend.Embed(t, embedded);
        values = backend.ReadActivation(embedded);
      });
      for (int32_t slot = 1; slot < 12; slot += 3)
        REQUIRE(std::equal(table.begin(), table.begin() + kHidden, values.begin() + slot * kHidden));
    }
  }
}

}  // namespace espalier::test
