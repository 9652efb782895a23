// The scheduler over the cuda backend, two steps in flight: the same tokens as over ref in fp32, alone and
// together, cold, from the cache and after preemption. On the twin or, with ESPALIER_ENGINE_DEVICE, on a GPU.
#include "model/llama_runner.h"
#include "tests/engine/llama_driver.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#ifndef ESPALIER_ENGINE_DEVICE
#include "kernels/cuda/twin_device.h"
#endif

namespace espalier {
namespace {

using namespace test;

RunnerOptions OptionsOf(const std::string& backend, const Setting& setting) {
  RunnerOptions options;
  options.backend.name = backend;
  options.backend.dtype = DType::kFloat32;
  options.backend.max_rows = kMaxRows;
  options.block_tokens = kBlockTokens;
  options.kv_blocks = setting.kv_blocks;
#ifndef ESPALIER_ENGINE_DEVICE
  if (backend == "cuda") {
    options.make_backend = [](const BackendOptions& asked) {
      return cuda::CreateTwinBackend(asked, {.memory_bytes = int64_t{832} << 20});
    };
  }
#endif
  return options;
}

Result<std::unique_ptr<ModelRunner>> Runner(const std::string& backend, const Setting& setting) {
  return RandomLlama(Config(), 5, OptionsOf(backend, setting));
}

std::vector<Answer> RefAnswers() {
  std::vector<Answer> answers;
  for (const TreeRequest& request : Requests()) {
    const auto runner = Runner("ref", Setting{}).value();
    Driver driver(*runner, Setting{});
    const uint64_t id = driver.Submit(request);
    answers.push_back(AnswerOf(driver.Run().at(id)));
  }
  return answers;
}

void CheckAnswer(const Answer& actual, const Answer& expected) {
  REQUIRE(actual.size() == expected.size());
  for (const auto& [path, branch] : expected) {
    CAPTURE(path);
    const auto found = actual.find(path);
    REQUIRE(found != actual.end());
    CHECK(found->second.first == branch.first);
    CHECK(found->second.second == Approx(branch.second).margin(1e-3));
  }
}

// All requests together, and once more from the cache.
void CheckDevice(const Setting& setting, bool expect_preemption) {
  CAPTURE(setting.kv_blocks, setting.steps_in_flight, Name(setting.mode));
  const std::vector<Answer> expected = RefAnswers();
  const auto runner = Runner("cuda", setting);
  if (!runner) return SkipTest(runner.error().ToString());
  REQUIRE((*runner)->info().backend.steps_in_flight == 2);
  Driver driver(**runner, setting);
  for (int32_t round = 0; round < 2; ++round) {
    std::vector<uint64_t> ids;
    for (const TreeRequest& request : Requests()) ids.push_back(driver.Submit(request));
    const std::map<uint64_t, TreeFinished> answers = driver.Run();
    for (size_t i = 0; i < ids.size(); ++i) {
      CAPTURE(round, i);
      CheckAnswer(AnswerOf(answers.at(ids[i])), expected[i]);
    }
  }
  CHECK(driver.Stats().cached_tokens > 0);
  CHECK((driver.Stats().preemptions > 0) == expect_preemption);
}

TEST_CASE("trees on the device have ref's tokens, two steps in flight") {
  CheckDevice({.kv_blocks = 100, .steps_in_flight = 2}, false);
}

TEST_CASE("trees on the device have ref's tokens after preemption") {
  CheckDevice({.kv_blocks = 20, .steps_in_flight = 2}, true);
}

TEST_CASE("trees on the device have ref's tokens where nothing is shared") {
  CheckDevice({.kv_blocks = 100, .steps_in_flight = 1, .mode = AttentionMode::kSequence}, false);
}

TEST_CASE("a pool without a size takes what the device has left, and serves") {
  Setting setting;
  RunnerOptions options = OptionsOf("cuda", setting);
  options.kv_blocks = 0;
  options.kv_cache_bytes = 0;
  options.max_positions = 200;
  const auto runner = RandomLlama(Config(), 5, options);
  if (!runner && runner.error().field == "backend") return SkipTest(runner.error().ToString());
  if (!runner) FAIL(runner.error().ToString());
  CHECK((*runner)->info().kv_blocks > 1000);
  CHECK((*runner)->info().max_positions == 200);
}

}  // namespace
}  // namespace espalier
