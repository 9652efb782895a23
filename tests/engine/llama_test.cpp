// The scheduler with a real forward pass: a random Llama in fp32 on the naive backend, run as on a device
// (operations executed late, activations poisoned between steps). The same request gives the same tokens and
// the same log-probabilities alone, in a batch, cold, from the cache and after preemption, with one and with
// two steps in flight.
#include <memory>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "model/backend_runner.h"
#include "tests/engine/fakes/async_backend.h"
#include "tests/engine/llama_driver.h"
#include "tests/support/catch.h"
#include "tests/support/isa.h"

namespace espalier {
namespace {

using namespace test;

AsyncLlama MakeLlama(const Setting& setting, const ModelConfig& config = Config()) {
  return MakeAsyncLlama(config, 5, setting.kv_blocks, kBlockTokens, setting.steps_in_flight, kMaxRows);
}

// All requests together, and once more when they have ended.
void CheckTwice(Driver& driver, const std::vector<Answer>& alone, bool expect_preemption) {
  for (int32_t round = 0; round < 2; ++round) {
    const std::vector<Answer> answers = AnswersTogether(driver);
    for (size_t i = 0; i < answers.size(); ++i) {
      CAPTURE(round, i);
      CHECK(answers[i] == alone[i]);
    }
  }
  CHECK(driver.Stats().cached_tokens > 0);
  CHECK((driver.Stats().preemptions > 0) == expect_preemption);
}

void CheckTogether(const Setting& setting, const std::vector<Answer>& alone, bool expect_preemption,
                   const ModelConfig& config = Config()) {
  CAPTURE(setting.kv_blocks, setting.steps_in_flight, setting.shuffle_seed, Name(setting.mode));
  const AsyncLlama llama = MakeLlama(setting, config);
  Driver driver(*llama.runner, setting);
  CheckTwice(driver, alone, expect_preemption);
  CHECK(llama.backend->attention_calls() == driver.steps() * Config().layer_count());
}

TEST_CASE("answers of a real model do not depend on batch, cache, preemption or steps in flight") {
  const std::vector<Answer> alone = AnswersAlone([] { return MakeLlama(Setting{}).runner; });
  REQUIRE(alone[2].size() == 4 + 4 + 4);
  for (int32_t in_flight = 1; in_flight <= 2; ++in_flight) {
    CheckTogether({.kv_blocks = 100, .steps_in_flight = in_flight}, alone, false);
    CheckTogether({.kv_blocks = 20, .steps_in_flight = in_flight}, alone, true);
    CheckTogether({.kv_blocks = 100, .steps_in_flight = in_flight, .shuffle_seed = 3}, alone, false);
    CheckTogether({.kv_blocks = 100, .steps_in_flight = in_flight, .mode = AttentionMode::kSequence}, alone,
                  false);
  }
}

// The second layer sees fewer tokens than a prompt has, and the first all; heads of both are normalised.
ModelConfig WindowedConfig() {
  ModelConfig config = Config();
  for (LayerSpec& layer : config.layers) layer.query_key_norm = true;
  config.layers[1].window = 20;
  config.layers[1].rotary = false;
  return config;
}

TEST_CASE("so with windows, norms of heads and heads without position") {
  const std::vector<Answer> alone =
      AnswersAlone([] { return MakeLlama(Setting{}, WindowedConfig()).runner; });
  REQUIRE(alone != AnswersAlone([] { return MakeLlama(Setting{}).runner; }));
  CheckTogether({.kv_blocks = 100, .steps_in_flight = 2}, alone, false, WindowedConfig());
  CheckTogether({.kv_blocks = 20}, alone, true, WindowedConfig());
}

// On the cpu backend everything that a branch's log-probability is made of promises the same.
std::unique_ptr<ModelRunner> OnCpu(WeightType weights, const std::string& isa, const Setting& setting) {
  ModelConfig config = Config();
  config.head_dim = 16;
  RunnerOptions options;
  options.backend.name = "cpu";
  options.backend.isa = isa;
  options.backend.weights = weights;
  options.backend.threads = 2;
  options.backend.max_rows = kMaxRows;
  options.block_tokens = kBlockTokens;
  options.kv_blocks = setting.kv_blocks;
  return RandomModel(config, 5, options).value();
}

void CheckOnCpu(WeightType weights, const std::string& isa) {
  if (!HasIsa(isa)) return;
  const std::vector<Answer> alone = AnswersAlone([&] { return OnCpu(weights, isa, Setting{}); });
  for (const Setting& setting : {Setting{.kv_blocks = 100}, Setting{.kv_blocks = 20},
                                 Setting{.kv_blocks = 100, .mode = AttentionMode::kSequence}}) {
    CAPTURE(setting.kv_blocks, Name(setting.mode), Name(weights), isa);
    const auto runner = OnCpu(weights, isa, setting);
    Driver driver(*runner, setting);
    CheckTwice(driver, alone, setting.kv_blocks == 20);
  }
}

TEST_CASE("on the cpu, log-probabilities have the same bits alone, in a batch, cold, cached and preempted") {
  for (const char* isa : {"auto", "amx_emulated", "portable"}) CheckOnCpu(WeightType::kDType, isa);
}

TEST_CASE("so they have with int8 weights") {
  for (const char* isa : {"auto", "amx_emulated", "portable"}) CheckOnCpu(WeightType::kInt8, isa);
}

}  // namespace
}  // namespace espalier
