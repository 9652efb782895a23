#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/device/device_backend.h"
#include "tests/kernels/host_emulator.h"
#include "tests/kernels/parity.h"
#include "tests/support/catch.h"

// A device that is short of memory: errors while it is set up, none in the steps after.
namespace espalier::test {

namespace {

constexpr int32_t kMaxRows = 256;
constexpr int32_t kBlocks = 192;
constexpr AttentionMode kModes[] = {AttentionMode::kFlatten, AttentionMode::kSequence, AttentionMode::kMasked,
                                    AttentionMode::kNode, AttentionMode::kNodeChunk};

std::unique_ptr<Backend> Emulator(device::HostEmulatorOptions emulator, int32_t max_rows) {
  BackendOptions options;
  options.dtype = DType::kFloat32;
  options.max_rows = max_rows;
  return device::CreateHostEmulatorBackend(options, emulator).value();
}

AttentionShape Shape(int32_t query_heads, int32_t kv_heads, int32_t head_dim) {
  return {.layers = 1,
          .query_heads = query_heads,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .kv_dtype = DType::kFloat32};
}

// A backend whose free memory can be looked at.
struct Watched {
  explicit Watched(int64_t memory_bytes) {
    std::unique_ptr<device::Device> made = device::CreateHostEmulator({.memory_bytes = memory_bytes});
    device = made.get();
    BackendOptions options;
    options.dtype = DType::kFloat32;
    options.max_rows = kMaxRows;
    backend = device::DeviceBackend::Create(options, std::move(made)).value();
  }
  device::Device* device = nullptr;
  std::unique_ptr<Backend> backend;
};

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace

TEST_CASE("Short device memory is an error that names what asked for it") {
  device::HostEmulatorOptions small;
  small.memory_bytes = 200000;
  const auto emulator = Emulator(small, 64);
  const std::vector<float> values(100 * 1000, 0.5F);
  const HostTensor matrix = {values.data(), DType::kFloat32, 100, 1000};
  const auto refused = emulator->AddMatrix({&matrix, 1});
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == ErrorCode::kResourceExhausted);
  CHECK(refused.error().field == "model");
  const auto pool = emulator->AddKv(Shape(2, 1, 32), 1000, 16);
  REQUIRE(!pool.ok());
  CHECK(pool.error().field == "kv-cache-bytes");
  const auto buffer = emulator->AddActivation(ActivationKind::kResidual, 100000);
  REQUIRE(!buffer.ok());
  CHECK(buffer.error().field == "max_rows");
  CHECK(emulator->AddActivation(ActivationKind::kResidual, 16).ok());

  // A pool that fits, but leaves no room for the logits of the head.
  device::HostEmulatorOptions tight;
  tight.memory_bytes = 1000000;
  const auto full = Emulator(tight, 64);
  AddMatrix(*full, std::vector<float>(1000 * 16, 0.5F), 1000);
  const auto last = full->AddKv(Shape(2, 1, 32), 100, 16);
  REQUIRE(!last.ok());
  CHECK(last.error().field == "kv-cache-bytes");
  CHECK(last.error().message.find("leaves too little memory next to the KV pool") == 0);

  // One that leaves none for partial results.
  const auto narrow = Emulator(tight, 64);
  const auto no_room = narrow->AddKv(Shape(2, 1, 32), 190, 16);
  REQUIRE(!no_room.ok());
  CHECK(no_room.error().field == "kv-cache-bytes");
  CHECK(no_room.error().message.find("attention's partial results") != std::string::npos);
}

TEST_CASE("Plans cut KV only as far as the pool left memory for partial results") {
  const AttentionShape shape = Shape(4, 2, 16);
  const auto small = Emulator({}, kMaxRows);
  CHECK(small->AddKv(shape, kBlocks, 16).ok());
  // 13 segments hold 192 blocks of 16 tokens and the rows of a step.
  CHECK(small->info().plan.max_partials == int64_t{kMaxRows} * 13);

  device::HostEmulatorOptions large;
  large.processors = 132;
  const auto emulator = Emulator(large, 512);
  const AttentionShape wide = Shape(128, 8, 256);
  REQUIRE(emulator->AddKv(wide, 64, 16).ok());
  const PlanOptions& options = emulator->info().plan;
  const int64_t partial_bytes = int64_t{128} * (256 + 2) * 4;
  CHECK(options.max_partials == (int64_t{256} << 20) / partial_bytes);
  // Rows that together would need more: none is cut.
  Random random(9);
  const Forest forest = FewShotForest(random, 60000, 20, 10);
  PlanOptions unlimited = options;
  unlimited.max_partials = std::numeric_limits<int64_t>::max();
  CHECK(PlanAttention(forest.batch, wide, unlimited).partials > options.max_partials);
  CHECK(PlanAttention(forest.batch, wide, options).partials <= options.max_partials);
}

TEST_CASE("A pool leaves what the device's libraries may need, or is refused") {
  constexpr int64_t kMemory = 4 << 20;
  const AttentionShape shape = Shape(4, 2, 16);
  Watched ample(kMemory);
  REQUIRE(ample.backend->AddKv(shape, kBlocks, 16).ok());
  device::HostEmulatorOptions options;
  options.memory_bytes = kMemory;
  options.library_bytes = ample.device->FreeBytes();
  CHECK(Emulator(options, kMaxRows)->AddKv(shape, kBlocks, 16).ok());
  ++options.library_bytes;
  const auto refused = Emulator(options, kMaxRows)->AddKv(shape, kBlocks, 16);
  REQUIRE(!refused.ok());
  CHECK(refused.error().field == "kv-cache-bytes");
  CHECK(refused.error().code == ErrorCode::kResourceExhausted);
}

// Both emulators take all they asked for; then one has not a byte left.
TEST_CASE("A plan with more partial results than the device has room for gives the same bits") {
  const AttentionShape shape = Shape(4, 2, 16);
  constexpr int64_t kMemory = 64 << 20;
  Watched ample(kMemory);
  AttentionRig ample_rig(*ample.backend, shape, kBlocks, 16, kMaxRows);
  Watched full(kMemory - ample.device->FreeBytes());
  AttentionRig full_rig(*full.backend, shape, kBlocks, 16, kMaxRows);
  REQUIRE(full.device->FreeBytes() == 0);
  ample_rig.Fill(3);
  full_rig.Fill(3);
  Random random(3);
  for (int32_t f = 0; f < 10; ++f) {
    Forest forest = FewShotForest(random, 1200, 80, 1);
    REQUIRE(forest.batch.blocks.size() <= kBlocks);
    std::iota(forest.batch.blocks.begin(), forest.batch.blocks.end(), 0);
    const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * ample_rig.qkv_cols()));
    for (const AttentionMode mode : kModes) {
      auto step = MakeStep(forest.batch);
      PlanOptions options = full.backend->info().plan;
      const int64_t reserved = options.max_partials;
      options.mode = mode;
      options.processors = 64;
      options.chunk_tokens = 16;
      step->plan = PlanAttention(forest.batch, shape, options);
      CAPTURE(f, Name(mode), step->plan.partials, reserved);
      CHECK((step->plan.partials > reserved) == (mode == AttentionMode::kNodeChunk));
      REQUIRE(SameBits(full_rig.Attend(step, qkv), ample_rig.Attend(step, qkv)));
    }
    REQUIRE(full.device->FreeBytes() == 0);
  }
}

TEST_CASE("A step whose plan and answers outgrow the device's memory is worked on in the host's") {
  constexpr int32_t kVocab = 4000;
  constexpr int32_t kSlots = 40000;  // more than are reserved
  Random random(5);
  const auto values = RandomValues(random, size_t{kVocab} * 16);
  std::vector<TokenResult> answers[2];
  int64_t memory_bytes = 64 << 20;
  for (std::vector<TokenResult>& found : answers) {
    Watched emulator(memory_bytes);
    const MatrixId table = AddMatrix(*emulator.backend, values, kVocab);
    const ActivationId rows = emulator.backend->AddActivation(ActivationKind::kResidual, 16).value();
    const ActivationId normed = emulator.backend->AddActivation(ActivationKind::kOperand, 16).value();
    const VectorId weight = AddVector(*emulator.backend, std::vector<float>(16, 1.0F));
    REQUIRE(emulator.backend->AddKv(Shape(1, 1, 16), 4, 16).ok());
    memory_bytes -= emulator.device->FreeBytes();  // the second time around none is left
    auto step = MakeStep(RowsOnly(3));
    step->logit_rows = {0, 2};
    step->params.resize(1);
    step->params[0].repetition_penalty = 1.3F;
    PathHistory tokens;
    for (int32_t id = 0; id < kVocab; id += 2) tokens.prompt_tokens.push_back(id);
    SequenceHistory history(0, std::make_shared<const PathHistory>(tokens));
    for (int32_t i = 0; i < 300; ++i) {
      history.sequence_slot = kSlots - 1 - i;
      step->histories.push_back(history);
      step->samples.push_back({i % 2, history.sequence_slot, 0, 3, static_cast<uint64_t>(i), 200});
    }
    const StepResult result = RunStep(*emulator.backend, step, [&] {
      emulator.backend->Embed(table, rows);
      emulator.backend->RmsNorm(rows, weight, 1e-5F, normed);
      emulator.backend->GatherLogitRows(normed, normed);
      SampleAll(*emulator.backend, normed, table, *step);
    });
    found = result.samples;
    // The sampled tokens are where the next step looks for them.
    auto next = MakeStep(RowsOnly(1));
    next->tokens = {RowToken{-1, history.sequence_slot}};
    RunStep(*emulator.backend, next, [&] { emulator.backend->Embed(table, rows); });
    const std::vector<float> row = emulator.backend->ReadActivation(rows);
    CHECK(SameBits(row,
                   std::span(values).subspan(static_cast<size_t>(result.samples.back().token_id) * 16, 16)));
  }
  REQUIRE(answers[0].size() == answers[1].size());
  for (size_t i = 0; i < answers[0].size(); ++i) {
    CAPTURE(i);
    CHECK(answers[1][i].token_id == answers[0][i].token_id);
    CHECK(answers[1][i].logprob == answers[0][i].logprob);
    REQUIRE(answers[1][i].top_logprobs.size() == 200);
    CHECK(answers[1][i].top_logprobs.back().token_id == answers[0][i].top_logprobs.back().token_id);
  }
}

}  // namespace espalier::test
