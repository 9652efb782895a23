#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "kernels/sampling.h"
#include "tests/kernels/parity.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#ifdef ESPALIER_PARITY_EMULATOR
#include "tests/kernels/host_emulator.h"
#endif

// Sampling of the cuda backend, token for token against the host's: on a GPU, or on its host emulator with
// the threads of a block in every order.
namespace espalier::test {

namespace {

// Backends in fp32; none, and the test case skipped, where there is no device.
std::vector<std::unique_ptr<Backend>> Devices() {
  BackendOptions options;
  options.name = "cuda";
  options.dtype = DType::kFloat32;
  options.max_rows = 64;
  std::vector<std::unique_ptr<Backend>> devices;
#ifdef ESPALIER_PARITY_EMULATOR
  for (const device::ThreadOrder order :
       {device::ThreadOrder::kAscending, device::ThreadOrder::kDescending, device::ThreadOrder::kShuffled}) {
    devices.push_back(device::CreateHostEmulatorBackend(options, {.order = order}).value());
  }
#else
  auto device = CreateBackend(options);
  if (device)
    devices.push_back(std::move(*device));
  else
    SkipTest(device.error().ToString());
#endif
  return devices;
}

SamplingParams SomeParams(Random& random, int32_t vocab) {
  SamplingParams params;
  const auto one_in = [&](int32_t n) { return Pick(random, 1, n) == 1; };
  const auto real = [&](float low, float high) {
    return low + (high - low) * static_cast<float>(Pick(random, 0, 1000)) / 1000.0F;
  };
  if (one_in(5)) params.temperature = 0.0F;
  if (one_in(2)) params.temperature = real(0.1F, 3.0F);
  if (one_in(2)) params.top_k = Pick(random, 1, 2 * vocab);
  if (one_in(3)) params.top_k = Pick(random, 1, 10);
  if (one_in(2)) params.top_p = real(0.001F, 1.0F);
  if (one_in(3)) params.min_p = real(0.0F, 0.5F);
  if (one_in(3)) params.repetition_penalty = real(0.5F, 3.0F);
  if (one_in(3)) params.presence_penalty = real(-2.0F, 2.0F);
  if (one_in(3)) params.frequency_penalty = real(-2.0F, 2.0F);
  for (int32_t i = one_in(3) ? Pick(random, 1, 8) : 0; i > 0; --i) {
    params.logit_bias.emplace_back(Pick(random, 0, vocab - 1), real(-5.0F, 5.0F));
  }
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  params.logit_bias.erase(std::unique(params.logit_bias.begin(), params.logit_bias.end(),
                                      [](const auto& a, const auto& b) { return a.first == b.first; }),
                          params.logit_bias.end());
  return params;
}

// Any of the ends of each range: the smallest and largest floats that ValidateTreeRequest accepts.
SamplingParams ExtremeParams(Random& random, int32_t vocab) {
  constexpr float kDenormal = std::numeric_limits<float>::denorm_min();
  constexpr float kNormal = std::numeric_limits<float>::min();
  constexpr float kBelowOne = 0x1.fffffep-1F;
  const auto one_of = [&](const std::vector<float>& values) {
    return values[static_cast<size_t>(Pick(random, 0, static_cast<int32_t>(values.size()) - 1))];
  };
  SamplingParams params;
  params.temperature = one_of({-0.0F, kDenormal, 1e-40F, 2.9e-39F, 3e-39F, kNormal, 1e-7F, 1.0F, 100.0F});
  params.top_k = static_cast<int32_t>(one_of({0.0F, 0.0F, 1.0F, 2.0F, 2e9F}));
  params.top_p = one_of({kDenormal, kNormal, 1e-7F, 0.5F, kBelowOne, 1.0F, 1.0F});
  params.min_p = one_of({0.0F, -0.0F, kDenormal, kNormal, 1e-7F, 0.5F, kBelowOne, 1.0F});
  params.repetition_penalty = one_of({kDenormal, 1e-40F, kNormal, 0.5F, 1.0F, 1.0F, 10.0F});
  params.presence_penalty = one_of({0.0F, -0.0F, kDenormal, -2.0F, 2.0F});
  params.frequency_penalty = one_of({0.0F, -0.0F, -kDenormal, -2.0F, 2.0F});
  for (int32_t i = Pick(random, 0, 1) * Pick(random, 1, 8); i > 0; --i) {
    params.logit_bias.emplace_back(Pick(random, 0, std::min(vocab, 5) - 1),
                                   one_of({-100.0F, 100.0F, kDenormal, 0.1F, 1e-7F}));
  }
  return params;
}

// Logits of rows that strain fp32: all equal, all zero, tiny, huge, far apart.
float ExtremeLogit(Random& random, int32_t row) {
  const float value = 12.0F * (static_cast<float>(random()) * 0x1p-32F - 0.5F);
  constexpr float kLargest = std::numeric_limits<float>::max();
  switch (row % 8) {
    case 0:
      return 3.0F;
    case 1:
      return Pick(random, 0, 1) == 0 ? 0.0F : -0.0F;
    case 2:
      return value * 1e-39F;
    case 3:
      return value * 1e37F;
    case 4:
      return Pick(random, 0, 3) == 0 ? kLargest : -kLargest;
    case 5:
      return -kLargest + std::round(value) * 1e37F * (value > 0 ? 1.0F : 0.0F);
    default:
      return Pick(random, 0, 3) == 0 ? std::round(value) : value;
  }
}

std::vector<int32_t> SomeTokens(Random& random, int32_t vocab, int32_t max) {
  std::vector<int32_t> tokens(static_cast<size_t>(Pick(random, 0, max)));
  for (int32_t& token : tokens) token = Pick(random, 0, vocab - 1);
  return tokens;
}

// Rows of logits come out of MatMul unchanged: row r of the input is the r-th unit vector.
struct LogitRig {
  static constexpr int32_t kRows = 16;

  LogitRig(Backend& b, const std::vector<float>& head, int32_t vocab) : backend(b) {
    matrix = AddMatrix(backend, head, vocab);
    rows = PoisonedActivation(backend, ActivationKind::kOperand, kRows, kRows);
  }
  StepResult Sample(const std::shared_ptr<StepInput>& step) {
    std::vector<float> units(kRows * kRows, 0.0F);
    for (size_t r = 0; r < kRows; ++r) units[r * kRows + r] = 1.0F;
    return RunStep(backend, step, [&] {
      backend.WriteActivation(rows, units);
      SampleAll(backend, rows, matrix, *step);
    });
  }

  Backend& backend;
  MatrixId matrix;
  ActivationId rows;
};

void CheckToken(const TokenResult& actual, const TokenResult& expected) {
  REQUIRE(actual.token_id == expected.token_id);
  REQUIRE(actual.logprob == Approx(expected.logprob).margin(1e-5));
  REQUIRE(actual.top_logprobs.size() == expected.top_logprobs.size());
  for (size_t i = 0; i < actual.top_logprobs.size(); ++i) {
    REQUIRE(actual.top_logprobs[i].token_id == expected.top_logprobs[i].token_id);
    REQUIRE(actual.top_logprobs[i].logprob == Approx(expected.top_logprobs[i].logprob).margin(1e-5));
  }
}

}  // namespace

TEST_CASE("The device samples the host's tokens, whatever the parameters") {
  const std::vector<std::unique_ptr<Backend>> devices = Devices();
  if (devices.empty()) return;
  Random random(41);
  for (const int32_t vocab : {1, 6, 255, 1000, 5003}) {
    std::vector<float> head(static_cast<size_t>(vocab * LogitRig::kRows));
    for (float& logit : head) {
      logit = 12.0F * (static_cast<float>(random()) * 0x1p-32F - 0.5F);
      if (Pick(random, 0, 3) == 0) logit = std::round(logit);  // ties
    }
    for (const std::unique_ptr<Backend>& device : devices) {
      LogitRig rig(*device, head, vocab);
      for (int32_t round = 0; round < 6; ++round) {
        auto step = MakeStep(RowsOnly(LogitRig::kRows));
        SequenceStore sequences;
        for (int32_t row = 0; row < LogitRig::kRows; ++row) step->logit_rows.push_back(row);
        for (int32_t i = 0; i < 40; ++i) {
          step->params.push_back(SomeParams(random, vocab));
          step->histories.push_back({i, SomeTokens(random, vocab, 30), SomeTokens(random, vocab, 30)});
          sequences.SetHistory(step->histories.back());
          step->samples.push_back({Pick(random, 0, LogitRig::kRows - 1), i, i, Pick(random, 0, 5000),
                                   random(), Pick(random, 0, 1) * Pick(random, 1, 25)});
          step->scores.push_back(
              {Pick(random, 0, LogitRig::kRows - 1), Pick(random, 0, vocab - 1), Pick(random, 0, 3)});
        }
        const StepResult result = rig.Sample(step);
        for (size_t i = 0; i < step->samples.size(); ++i) {
          const SampleRequest& request = step->samples[i];
          std::vector<float> logits;
          for (int32_t v = 0; v < vocab; ++v) {
            logits.push_back(head[static_cast<size_t>(v * LogitRig::kRows + request.logit_index)]);
          }
          INFO("vocab " << vocab << " round " << round << " sample " << i);
          CheckToken(result.samples[i], SampleToken(logits, Summarize(logits), step->params[i],
                                                    sequences.Counts(request.sequence_slot), request.stream,
                                                    request.position, request.top_logprobs));
          REQUIRE(result.scores[i].token_id == step->scores[i].token_id);
        }
      }
    }
  }
}

TEST_CASE("The device samples the host's tokens with the most extreme parameters and logits") {
  const std::vector<std::unique_ptr<Backend>> devices = Devices();
  if (devices.empty()) return;
  Random random(47);
  for (const int32_t vocab : {1, 3, 260, 1003}) {
    std::vector<float> head(static_cast<size_t>(vocab * LogitRig::kRows));
    for (size_t i = 0; i < head.size(); ++i)
      head[i] = ExtremeLogit(random, static_cast<int32_t>(i % LogitRig::kRows));
    for (const std::unique_ptr<Backend>& device : devices) {
      LogitRig rig(*device, head, vocab);
      for (int32_t round = 0; round < 8; ++round) {
        auto step = MakeStep(RowsOnly(LogitRig::kRows));
        step->return_logits = true;
        SequenceStore sequences;
        for (int32_t row = 0; row < LogitRig::kRows; ++row) step->logit_rows.push_back(row);
        for (int32_t i = 0; i < 60; ++i) {
          step->params.push_back(ExtremeParams(random, vocab));
          step->histories.push_back({i, SomeTokens(random, vocab, 5), SomeTokens(random, vocab, 5)});
          sequences.SetHistory(step->histories.back());
          step->samples.push_back({i % LogitRig::kRows, i, i, Pick(random, 0, 5000), random(), i % 4});
          step->scores.push_back({i % LogitRig::kRows, Pick(random, 0, vocab - 1), i % 3});
        }
        const StepResult result = rig.Sample(step);
        for (size_t i = 0; i < step->samples.size(); ++i) {
          const SampleRequest& request = step->samples[i];
          const std::span<const float> logits =
              std::span(result.logits)
                  .subspan(static_cast<size_t>(request.logit_index * vocab), static_cast<size_t>(vocab));
          const LogitSummary summary = Summarize(logits);
          INFO("vocab " << vocab << " round " << round << " sample " << i);
          REQUIRE(summary.finite());
          CheckToken(result.samples[i],
                     SampleToken(logits, summary, step->params[i], sequences.Counts(request.sequence_slot),
                                 request.stream, request.position, request.top_logprobs));
          const ScoreRequest& score = step->scores[i];
          CheckToken(result.scores[i], ScoreToken(logits, summary, score.token_id, score.top_logprobs));
        }
      }
    }
  }
}

TEST_CASE("A step issued before the last one's tokens are known penalises them all the same") {
  const std::vector<std::unique_ptr<Backend>> devices = Devices();
  if (devices.empty()) return;
  Backend& device = *devices.front();
  constexpr int32_t kVocab = 50;
  Random random(43);
  std::vector<float> head(kVocab * LogitRig::kRows);
  for (float& logit : head) logit = 3.0F * static_cast<float>(random()) * 0x1p-32F;
  SamplingParams params;
  params.presence_penalty = 1.5F;
  params.repetition_penalty = 2.0F;
  const auto step_at = [&](int32_t position) {
    auto step = MakeStep(RowsOnly(LogitRig::kRows));
    step->params = {params};
    for (int32_t row = 0; row < LogitRig::kRows; ++row) {
      step->logit_rows.push_back(row);
      // Sequence slots are taken over by new branches in the middle: their old samples may still be on the
      // device.
      if (position == 0 || (position == 5 && row % 2 == 0)) {
        step->histories.push_back({row, {row, 49 - row}, {row + 3}});
      }
      step->samples.push_back({row, row, 0, position, static_cast<uint64_t>(row), 0});
    }
    return step;
  };
  const auto ref = MakeRef(64);
  LogitRig ref_rig(*ref, head, kVocab);
  LogitRig device_rig(device, head, kVocab);
  std::vector<float> units(LogitRig::kRows * LogitRig::kRows, 0.0F);
  for (size_t r = 0; r < LogitRig::kRows; ++r) units[r * LogitRig::kRows + r] = 1.0F;
  const auto issue = [&](int32_t position) {
    const auto step = step_at(position);
    device.BeginStep(step);
    device.WriteActivation(device_rig.rows, units);
    SampleAll(device, device_rig.rows, device_rig.matrix, *step);
    device.EndStep();
  };
  REQUIRE(device.info().steps_in_flight == 2);
  constexpr int32_t kSteps = 12;
  issue(0);
  for (int32_t position = 0; position < kSteps; ++position) {
    if (position + 1 < kSteps) issue(position + 1);
    const StepResult actual = device.Wait().value();
    const StepResult expected = ref_rig.Sample(step_at(position));
    for (size_t i = 0; i < expected.samples.size(); ++i) {
      INFO("position " << position << " slot " << i);
      REQUIRE(actual.samples[i].token_id == expected.samples[i].token_id);
    }
  }
}

}  // namespace espalier::test
