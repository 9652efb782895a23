#include "tests/model/golden_checks.h"

#include <algorithm>
#include <cstdio>

#include "model/hashed_weights.h"
#include "tests/model/golden.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#include "tests/support/sanitized.h"

namespace espalier::test {

namespace {

const std::filesystem::path kData = "tests/model/data";

// What int8 weights and operands may cost: error of log-probabilities, and the least part of positions whose
// most likely token stays the same. A trained model loses least: weights without structure spread their
// errors over all tokens. tests/bench/results/README.md has what they do cost.
struct Int8Bound {
  double mean = 0.0;
  double max = 0.0;
  double best = 1.0;
};
constexpr Int8Bound kInt8Random = {0.12, 0.6, 0.85};
constexpr Int8Bound kInt8TinyStories = {0.06, 0.35, 0.85};
constexpr Int8Bound kInt8Demo = {0.015, 0.2, 0.93};

// Limits of fp32 are those of rounding; those of bf16 are what transformers itself loses by it; those of int8
// are `int8`.
void CheckGolden(const Golden& golden, ModelRunner& runner, const BackendOptions& backend,
                 const Int8Bound& int8, GoldenReport& worst) {
  INFO(golden.name);
  const GoldenReport report = Compare(golden, runner, 33);
  const DType dtype = backend.dtype;
  if (backend.weights == WeightType::kInt8) {
    CHECK(report.logprob_mean_error <= int8.mean);
    CHECK(report.logprob_max_error <= int8.max);
    CHECK(report.best_equal >= int8.best * report.best_checked);
    worst.logprob_mean_error = std::max(worst.logprob_mean_error, report.logprob_mean_error);
    worst.logprob_max_error = std::max(worst.logprob_max_error, report.logprob_max_error);
    worst.best_checked += report.best_checked;
    worst.best_equal += report.best_equal;
    return;
  }
  if (dtype == DType::kFloat32) {
    CHECK(report.logit_error <= 1e-4);
    CHECK(report.greedy_equal == report.greedy_checked);
    CHECK(report.logprob_max_error <= 1e-3);
    worst.logit_error = std::max(worst.logit_error, report.logit_error);
    worst.greedy_checked += report.greedy_checked;
    return;
  }
  const double mean_ratio = report.logprob_mean_error / golden.transformers_bf16_mean_error;
  const double max_ratio = report.logprob_max_error / golden.transformers_bf16_max_error;
  CHECK(mean_ratio <= 1.5);
  CHECK(max_ratio <= 1.5);
  worst.logprob_mean_error = std::max(worst.logprob_mean_error, mean_ratio);
  worst.logprob_max_error = std::max(worst.logprob_max_error, max_ratio);
}

void Print(const char* what, const RunnerOptions& options, const GoldenReport& worst) {
  const BackendOptions& backend = options.backend;
  std::printf("%s, %s %s %s: ", what, backend.name.c_str(), backend.isa.c_str(),
              Name(backend.weights, backend.dtype));
  if (backend.weights == WeightType::kInt8) {
    std::printf(
        "log-probabilities off by at most %.4f (mean) and %.3f (max), %d of %d best tokens the same\n",
        worst.logprob_mean_error, worst.logprob_max_error, worst.best_equal, worst.best_checked);
  } else if (backend.dtype == DType::kFloat32) {
    std::printf("logits off by at most %.2e of the largest, %d greedy tokens compared\n", worst.logit_error,
                worst.greedy_checked);
  } else {
    std::printf("log-probabilities off by at most %.2f (mean) and %.2f (max) times what transformers is\n",
                worst.logprob_mean_error, worst.logprob_max_error);
  }
}

}  // namespace

void CheckConfigs(const RunnerOptions& options) {
  constexpr size_t kPart = kSanitized ? 4 : 1;  // one configuration of so many is run
  GoldenReport worst;
  for (const char* file : {"configs.json", "odd_heads.json", "family_configs.json", "window_configs.json"}) {
    const std::vector<Golden> cases = ReadGoldenFile(SourceDir() / kData / file);
    for (size_t i = 0; i < cases.size(); i += kPart) {
      const Golden& golden = cases[i];
      const auto config = ParseModelConfig(golden.config);
      REQUIRE(config.ok());
      const auto weights = MakeHashedWeights(golden.seed, DType::kFloat32);
      auto runner = MakeModel(*config, *weights, golden.name, options);
      if (!runner) FAIL(runner.error().ToString());
      CheckGolden(golden, **runner, options.backend, kInt8Random, worst);
    }
  }
  Print("random configurations", options, worst);
}

void CheckFolders(const RunnerOptions& given) {
  RunnerOptions options = given;
  options.max_positions = 128;  // as all of them have; the one with rope type dynamic needs it
  GoldenReport worst;
  for (const std::string folders : {"folders", "found_folders", "families"}) {
    for (const Golden& golden : ReadGoldenFile(SourceDir() / kData / (folders + ".json"))) {
      auto runner = LoadModel((SourceDir() / kData / folders / golden.name).string(), options);
      if (!runner) FAIL(runner.error().ToString());
      if (folders != "families") CHECK((*runner)->info().eos_token_ids == std::vector<int32_t>{2, 3});
      CheckGolden(golden, **runner, options.backend, kInt8Random, worst);
    }
  }
  Print("folders", options, worst);
}

void CheckTinyStories(const RunnerOptions& options) {
  const auto shared = EnvOrSkip("ESPALIER_SHARED_DIR");
  if (!shared) return;
  const auto golden = ReadGoldenFile(SourceDir() / kData / "tinystories.json").front();
  auto runner = LoadModel(*shared + "/models/TinyStories-656K", options);
  if (!runner) FAIL(runner.error().ToString());
  CHECK((*runner)->info().name == "TinyStories-656K");
  CHECK((*runner)->info().parameters == 656000);
  GoldenReport worst;
  CheckGolden(golden, **runner, options.backend, kInt8TinyStories, worst);
  Print("TinyStories-656K", options, worst);
}

void CheckDemo(const RunnerOptions& options) {
  const auto golden = ReadGoldenFile(SourceDir() / kData / "demo.json").front();
  auto runner = LoadModel((SourceDir() / "model/demo").string(), options);
  if (!runner) FAIL(runner.error().ToString());
  GoldenReport worst;
  CheckGolden(golden, **runner, options.backend, kInt8Demo, worst);
  Print("demo", options, worst);
}

}  // namespace espalier::test
