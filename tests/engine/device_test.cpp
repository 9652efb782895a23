// The scheduler over the cuda backend, two steps in flight: the same tokens as over ref in fp32, alone and
// together, cold, from the cache and after preemption. On the host emulator or, with ESPALIER_ENGINE_DEVICE,
// on a GPU.
#include "model/backend_runner.h"
#include "tests/engine/llama_driver.h"
#include "tests/engine/overflow_checks.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#ifndef ESPALIER_ENGINE_DEVICE
#include <random>

#include "tests/kernels/host_emulator.h"
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
      return device::CreateHostEmulatorBackend(asked, {.memory_bytes = int64_t{416} << 20});
    };
  }
#endif
  return options;
}

Result<std::unique_ptr<ModelRunner>> Runner(const std::string& backend, const Setting& setting) {
  return RandomModel(Config(), 5, OptionsOf(backend, setting));
}

std::vector<Answer> RefAnswers() {
  return AnswersAlone([] { return Runner("ref", Setting{}).value(); });
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
    const std::vector<Answer> answers = AnswersTogether(driver);
    for (size_t i = 0; i < answers.size(); ++i) {
      CAPTURE(round, i);
      CheckAnswer(answers[i], expected[i]);
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

TEST_CASE("on the device, branches end where the model overflows, and nothing else does") {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const OverflowWeights::At at : {OverflowWeights::At::kHead, OverflowWeights::At::kKeys}) {
      const Setting setting = {.kv_blocks = 100, .steps_in_flight = 2};
      RunnerOptions options = OptionsOf("cuda", setting);
      options.backend.dtype = dtype;
      CAPTURE(Name(dtype), at == OverflowWeights::At::kHead);
      const auto runner = OverflowLlama(at, options);
      if (!runner) return SkipTest(runner.error().ToString());
      CheckOverflow(**runner, setting);
    }
  }
}

TEST_CASE("a pool without a size takes what the device has left, and serves") {
  Setting setting;
  RunnerOptions options = OptionsOf("cuda", setting);
  options.kv_blocks = 0;
  options.kv_cache_bytes = 0;
  options.max_positions = 200;
  const auto runner = RandomModel(Config(), 5, options);
  if (!runner && runner.error().field == "backend") return SkipTest(runner.error().ToString());
  if (!runner) FAIL(runner.error().ToString());
  CHECK((*runner)->info().kv_blocks > 1000);
  CHECK((*runner)->info().max_positions == 200);
}

#ifndef ESPALIER_ENGINE_DEVICE
// The device's libraries take their part at the first GEMM, as on a GPU: after the start.
RunnerOptions ShortOfMemory(const Setting& setting, int64_t memory_bytes) {
  RunnerOptions options = OptionsOf("cuda", setting);
  options.make_backend = [memory_bytes](const BackendOptions& asked) {
    return device::CreateHostEmulatorBackend(asked, {.memory_bytes = memory_bytes, .library_bytes = 300000});
  };
  return options;
}

TEST_CASE("a device with too little memory is refused at the start, with enough it serves to the end") {
  constexpr AttentionMode kModes[] = {AttentionMode::kFlatten, AttentionMode::kSequence,
                                      AttentionMode::kMasked, AttentionMode::kNode,
                                      AttentionMode::kNodeChunk};
  const std::vector<Answer> expected = RefAnswers();
  Setting setting = {.kv_blocks = 20, .steps_in_flight = 2};
  std::mt19937 random(11);
  int64_t refused = 0;  // the most memory that was not enough
  int64_t enough = 8 << 20;
  while (enough - refused > 1) {
    const int64_t memory_bytes = refused + (enough - refused) / 2;
    const auto runner = RandomModel(Config(), 5, ShortOfMemory(setting, memory_bytes));
    CAPTURE(memory_bytes);
    if (runner) {
      enough = memory_bytes;
      continue;
    }
    refused = memory_bytes;
    const Error& error = runner.error();
    CAPTURE(error.ToString());
    CHECK(error.code == ErrorCode::kResourceExhausted);
    const bool named = error.field == "model" || error.field == "max_rows" || error.field == "kv-cache-bytes";
    CHECK(named);
  }
  for (int32_t round = 0; round < 15; ++round) {
    setting.mode = kModes[round % 5];
    // The least that is enough, to the byte, then somewhat more.
    const int64_t memory_bytes =
        enough + (round < 5 ? 0 : std::uniform_int_distribution<int64_t>(0, 200000)(random));
    CAPTURE(memory_bytes, Name(setting.mode));
    const auto runner = RandomModel(Config(), 5, ShortOfMemory(setting, memory_bytes)).value();
    Driver driver(*runner, setting);
    const std::vector<Answer> answers = AnswersTogether(driver);
    for (size_t i = 0; i < answers.size(); ++i) CheckAnswer(answers[i], expected[i]);
  }
}
#endif

}  // namespace
}  // namespace espalier
