// The scheduler with a real forward pass: a random Llama in fp32 on the naive backend, run as on a device
// (operations executed late, activations poisoned between steps). The same request gives the same tokens and
// the same log-probabilities alone, in a batch, cold, from the cache and after preemption, with one and with
// two steps in flight.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "model/llama_runner.h"
#include "tests/engine/fakes/async_backend.h"
#include "tests/engine/llama_driver.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using namespace test;

AsyncLlama MakeLlama(const Setting& setting) {
  return MakeAsyncLlama(Config(), 5, setting.kv_blocks, kBlockTokens, setting.steps_in_flight, kMaxRows);
}

std::vector<Answer> AnswersAlone() {
  std::vector<Answer> answers;
  for (const TreeRequest& request : Requests()) {
    const AsyncLlama llama = MakeLlama(Setting{});
    Driver driver(*llama.runner, Setting{});
    const uint64_t id = driver.Submit(request);
    answers.push_back(AnswerOf(driver.Run().at(id)));
  }
  return answers;
}

// Submits all requests together, and once more when they have ended.
void CheckTogether(const Setting& setting, const std::vector<Answer>& alone, bool expect_preemption) {
  CAPTURE(setting.kv_blocks, setting.steps_in_flight, setting.shuffle_seed, Name(setting.mode));
  const AsyncLlama llama = MakeLlama(setting);
  Driver driver(*llama.runner, setting);
  for (int32_t round = 0; round < 2; ++round) {
    std::vector<uint64_t> ids;
    for (const TreeRequest& request : Requests()) ids.push_back(driver.Submit(request));
    const std::map<uint64_t, TreeFinished> answers = driver.Run();
    for (size_t i = 0; i < ids.size(); ++i) {
      CAPTURE(round, i);
      CHECK(AnswerOf(answers.at(ids[i])) == alone[i]);
    }
  }
  CHECK(driver.Stats().cached_tokens > 0);
  CHECK((driver.Stats().preemptions > 0) == expect_preemption);
  CHECK(llama.backend->attention_calls() == driver.steps() * Config().layers);
}

TEST_CASE("answers of a real model do not depend on batch, cache, preemption or steps in flight") {
  const std::vector<Answer> alone = AnswersAlone();
  REQUIRE(alone[2].size() == 4 + 4 + 4);
  for (int32_t in_flight = 1; in_flight <= 2; ++in_flight) {
    CheckTogether({.kv_blocks = 100, .steps_in_flight = in_flight}, alone, false);
    CheckTogether({.kv_blocks = 20, .steps_in_flight = in_flight}, alone, true);
    CheckTogether({.kv_blocks = 100, .steps_in_flight = in_flight, .shuffle_seed = 3}, alone, false);
    CheckTogether({.kv_blocks = 100, .steps_in_flight = in_flight, .mode = AttentionMode::kSequence}, alone,
                  false);
  }
}

// On the cpu backend everything that a branch's log-probability is made of promises the same.
std::unique_ptr<ModelRunner> OnCpu(WeightType weights, const std::string& isa, const Setting& setting) {
  LlamaConfig config = Config();
  config.head_dim = 16;
  RunnerOptions options;
  options.backend.name = "cpu";
  options.backend.isa = isa;
  options.backend.weights = weights;
  options.backend.threads = 2;
  options.backend.max_rows = kMaxRows;
  options.block_tokens = kBlockTokens;
  options.kv_blocks = setting.kv_blocks;
  return RandomLlama(config, 5, options).value();
}

void CheckOnCpu(WeightType weights, const std::string& isa) {
  std::vector<Answer> alone;
  for (const TreeRequest& request : Requests()) {
    const auto runner = OnCpu(weights, isa, Setting{});
    Driver driver(*runner, Setting{});
    const uint64_t id = driver.Submit(request);
    alone.push_back(AnswerOf(driver.Run().at(id)));
  }
  for (const Setting& setting : {Setting{.kv_blocks = 100}, Setting{.kv_blocks = 20},
                                 Setting{.kv_blocks = 100, .mode = AttentionMode::kSequence}}) {
    CAPTURE(setting.kv_blocks, Name(setting.mode), Name(weights), isa);
    const auto runner = OnCpu(weights, isa, setting);
    Driver driver(*runner, setting);
    for (int32_t round = 0; round < 2; ++round) {
      std::vector<uint64_t> ids;
      for (const TreeRequest& request : Requests()) ids.push_back(driver.Submit(request));
      const std::map<uint64_t, TreeFinished> answers = driver.Run();
      for (size_t i = 0; i < ids.size(); ++i) {
        CAPTURE(round, i);
        CHECK(AnswerOf(answers.at(ids[i])) == alone[i]);
      }
    }
    CHECK(driver.Stats().cached_tokens > 0);
    CHECK((driver.Stats().preemptions > 0) == (setting.kv_blocks == 20));
  }
}

TEST_CASE("on the cpu, log-probabilities have the same bits alone, in a batch, cold, cached and preempted") {
  for (const char* isa : {"auto", "portable"}) CheckOnCpu(WeightType::kDType, isa);
}

TEST_CASE("so they have with int8 weights") {
  for (const char* isa : {"auto", "portable"}) CheckOnCpu(WeightType::kInt8, isa);
}

}  // namespace
}  // namespace espalier
