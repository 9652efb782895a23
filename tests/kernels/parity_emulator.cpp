#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/device_backend.h"
#include "tests/kernels/host_emulator.h"
#include "tests/kernels/parity.h"
#include "tests/support/catch.h"
#include "tests/support/sanitized.h"

// What the host emulator can show of the cuda backend beyond the cases that every backend passes.
namespace espalier::test {

namespace {

constexpr int32_t kMaxRows = 256;
constexpr int32_t kBlocks = 192;
constexpr int32_t kForestsPart = kSanitized ? 20 : 1;  // one forest of so many is tried
constexpr device::ThreadOrder kOrders[] = {device::ThreadOrder::kAscending, device::ThreadOrder::kDescending,
                                           device::ThreadOrder::kShuffled};
constexpr AttentionMode kModes[] = {AttentionMode::kFlatten, AttentionMode::kSequence, AttentionMode::kMasked,
                                    AttentionMode::kNode, AttentionMode::kNodeChunk};

std::unique_ptr<Backend> Emulator(DType dtype, device::HostEmulatorOptions emulator = {},
                                  int32_t max_rows = kMaxRows) {
  BackendOptions options;
  options.dtype = dtype;
  options.max_rows = max_rows;
  return device::CreateHostEmulatorBackend(options, emulator).value();
}

Forest SmallForest(Random& random, int32_t block_tokens) {
  while (true) {
    Forest forest;
    switch (Pick(random, 0, 5)) {
      case 0:
        forest = FewShotForest(random, Pick(random, 1, 600), Pick(random, 1, 40), Pick(random, 0, 20));
        break;
      case 1:
        forest = PrefillForest(random, Pick(random, 0, 300), Pick(random, 1, 60));
        break;
      case 2:
        forest = TokenTreeForest(random, Pick(random, 0, 520), Pick(random, 1, 60));
        break;
      default:
        forest = MixedForest(random, {3, 3, 3, 160 / block_tokens, 20}, block_tokens);
    }
    if (forest.batch.block_tokens != block_tokens) continue;
    if (forest.batch.rows() > kMaxRows || forest.batch.blocks.size() > kBlocks) continue;
    ScatterBlocks(random, kBlocks, &forest.batch);
    return forest;
  }
}

PlanOptions SomeOptions(const Backend& backend, AttentionMode mode, Random& random) {
  PlanOptions options = backend.info().plan;
  options.mode = mode;
  options.processors = Pick(random, 1, 132);
  if (Pick(random, 0, 2) == 0) options.max_tile_rows = Pick(random, 1, options.max_tile_rows);
  options.chunk_tokens = Pick(random, 10, 300);
  return options;
}

AttentionShape Shape(int32_t query_heads, int32_t kv_heads, int32_t head_dim, DType dtype) {
  return {
      .layers = 1, .query_heads = query_heads, .kv_heads = kv_heads, .head_dim = head_dim, .kv_dtype = dtype};
}

std::shared_ptr<StepInput> Planned(const TreeBatch& batch, const AttentionShape& shape,
                                   const PlanOptions& options) {
  auto step = MakeStep(batch);
  step->plan = PlanAttention(batch, shape, options);
  return step;
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// Random forests over one shape, every mode, against ref.
void CompareForests(const AttentionShape& shape, int32_t block_tokens, int32_t forests, uint32_t seed) {
  const auto ref = MakeRef(kMaxRows);
  const auto emulator = Emulator(DType::kFloat32);
  AttentionRig ref_rig(*ref, shape, kBlocks, block_tokens, kMaxRows);
  AttentionRig emulator_rig(*emulator, shape, kBlocks, block_tokens, kMaxRows);
  ref_rig.Fill(seed);
  emulator_rig.Fill(seed);
  Random random(seed);
  for (int32_t f = 0; f < forests; f += kForestsPart) {
    const Forest forest = SmallForest(random, block_tokens);
    const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * ref_rig.qkv_cols()));
    const std::vector<float> expected = ref_rig.Attend(MakeStep(forest.batch), qkv);
    for (const AttentionMode mode : kModes) {
      const auto step = Planned(forest.batch, shape, SomeOptions(*emulator, mode, random));
      const double error = NormalisedError(emulator_rig.Attend(step, qkv), expected);
      INFO("heads " << shape.query_heads << "/" << shape.kv_heads << " dim " << shape.head_dim
                    << " blocks of " << block_tokens << " mode " << Name(mode) << " seed " << seed
                    << " forest " << f << ": error " << error);
      REQUIRE(error <= Tolerance(DType::kFloat32));
    }
  }
}

}  // namespace

TEST_CASE("The lowered plan of a thousand random forests gives ref's attention in every mode") {
  CompareForests(Shape(4, 2, 8, DType::kFloat32), 16, 400, 1);
  CompareForests(Shape(3, 3, 16, DType::kFloat32), 16, 250, 2);
  CompareForests(Shape(7, 1, 8, DType::kFloat32), 16, 200, 3);
  CompareForests(Shape(20, 1, 8, DType::kFloat32), 16, 100, 4);  // a group of two tiles, the second a low one
  CompareForests(Shape(4, 4, 24, DType::kFloat32), 8, 50, 5);
  CompareForests(Shape(2, 1, 8, DType::kFloat32), 64, 50, 6);
  CompareForests(Shape(5, 1, 10, DType::kFloat32), 16, 50, 7);
}

TEST_CASE("No order of a block's threads changes a bit of attention") {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const AttentionShape shape = Shape(6, 2, 16, dtype);
    std::vector<std::unique_ptr<Backend>> emulators;
    std::vector<AttentionRig> rigs;
    for (const device::ThreadOrder order : kOrders) {
      emulators.push_back(Emulator(dtype, {.order = order}));
      rigs.emplace_back(*emulators.back(), shape, kBlocks, 16, kMaxRows);
      rigs.back().Fill(17);
      Random random(18);
      rigs.back().spec().query_norm = AddVector(*emulators.back(), RandomValues(random, 16));
      rigs.back().spec().key_norm = AddVector(*emulators.back(), RandomValues(random, 16));
    }
    Random random(17);
    for (int32_t f = 0; f < 40; ++f) {
      const Forest forest = SmallForest(random, 16);
      const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * rigs[0].qkv_cols()));
      const auto step = Planned(forest.batch, shape, SomeOptions(*emulators[0], kModes[f % 5], random));
      for (AttentionRig& rig : rigs) rig.SetWindow(f % 2 == 0 ? 0 : 1 + 7 * f);
      const std::vector<float> expected = rigs[0].Attend(step, qkv);
      INFO(Name(dtype) << " forest " << f);
      REQUIRE(SameBits(rigs[1].Attend(step, qkv), expected));
      REQUIRE(SameBits(rigs[2].Attend(step, qkv), expected));
    }
  }
}

TEST_CASE("Emptying the caches changes nothing but time") {
  const AttentionShape shape = Shape(4, 2, 16, DType::kFloat32);
  const auto emulator = Emulator(DType::kFloat32);
  AttentionRig rig(*emulator, shape, kBlocks, 16, kMaxRows);
  rig.Fill(21);
  Random random(21);
  const Forest forest = SmallForest(random, 16);
  const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * rig.qkv_cols()));
  const auto step = Planned(forest.batch, shape, SomeOptions(*emulator, AttentionMode::kFlatten, random));
  const std::vector<float> expected = rig.Attend(step, qkv);
  RunStep(*emulator, MakeStep(RowsOnly(1)), [&] { emulator->FlushCaches(); });
  CHECK(SameBits(rig.Attend(step, qkv), expected));
}

TEST_CASE("Shapes that the kernels cannot run are refused by name") {
  const auto emulator = Emulator(DType::kFloat32);
  CHECK(emulator->AddKv(Shape(2, 1, 21, DType::kFloat32), 4, 16).error().field == "head_dim");
  CHECK(emulator->AddKv(Shape(2, 1, 16, DType::kFloat32), 4, 24).error().field == "block_tokens");
  CHECK(emulator->AddKv(Shape(2, 1, 16, DType::kFloat16), 4, 16).error().field == "kv-dtype");
  device::HostEmulatorOptions little;
  little.shared_bytes = 48 << 10;
  CHECK(Emulator(DType::kFloat32, little)->AddKv(Shape(32, 1, 256, DType::kFloat32), 4, 16).error().field ==
        "head_dim");
  BackendOptions options;
  options.dtype = DType::kFloat16;
  CHECK(device::CreateHostEmulatorBackend(options).error().field == "dtype");
  options.dtype = DType::kBFloat16;
  options.weights = WeightType::kInt8;
  CHECK(device::CreateHostEmulatorBackend(options).error().field == "weights");
}

TEST_CASE("A lost device fails the steps in flight and every later one") {
  std::unique_ptr<device::Device> device = device::CreateHostEmulator({});
  device::Device* lost = device.get();
  BackendOptions options;
  options.max_rows = 64;
  const auto emulator = device::DeviceBackend::Create(options, std::move(device)).value();
  const MatrixId table = AddTable(*emulator, std::vector<float>(16 * 16, 1.0F), 16);
  const ActivationId out = emulator->AddActivation(ActivationKind::kResidual, 16).value();
  for (int32_t i = 0; i < 2; ++i) {
    emulator->BeginStep(MakeStep(RowsOnly(2)));
    emulator->Embed(table, out);
    if (i == 1) lost->Fail({ErrorCode::kUnavailable, "", "the device is lost"});
    emulator->EndStep();
  }
  CHECK(emulator->Wait().error().message == "the device is lost");
  CHECK(emulator->Wait().error().message == "the device is lost");
  emulator->BeginStep(MakeStep(RowsOnly(2)));
  emulator->Embed(table, out);
  emulator->EndStep();
  CHECK(emulator->Wait().error().code == ErrorCode::kUnavailable);
}

TEST_CASE(
    "A token outside the vocabulary, and a sequence slot that sampled none, are errors and not reads out of "
    "bounds") {
  for (const RowToken token : {RowToken{16, -1}, RowToken{-1, 5}}) {
    const auto emulator = Emulator(DType::kFloat32, {}, 64);
    const MatrixId table = AddTable(*emulator, std::vector<float>(16 * 16, 1.0F), 16);
    const ActivationId out = emulator->AddActivation(ActivationKind::kResidual, 16).value();
    auto step = MakeStep(RowsOnly(2));
    step->tokens[1] = token;
    emulator->BeginStep(step);
    emulator->Embed(table, out);
    emulator->EndStep();
    const auto result = emulator->Wait();
    REQUIRE(!result.ok());
    CHECK(result.error().code == ErrorCode::kInternal);
  }
}

TEST_CASE("A descriptor's arrays lie one behind the other, and nothing behind them is written") {
  Random random(3);
  for (int32_t i = 0; i < 50; ++i) {
    const Forest forest = SmallForest(random, 16);
    PlanOptions options;
    options.processors = 16;
    const auto step = Planned(forest.batch, Shape(4, 2, 16, DType::kFloat32), options);
    device::HistoryStore histories;
    const device::LoweredStep lowered(*step, &histories);
    std::vector<std::byte> memory(static_cast<size_t>(lowered.bytes()) + 64, std::byte{0xa5});
    lowered.Write(memory.data());
    REQUIRE(std::all_of(memory.end() - 64, memory.end(), [](std::byte b) { return b == std::byte{0xa5}; }));
    const device::DescriptorHeader& header = lowered.header();
    CHECK(header.row.offset >= static_cast<int64_t>(sizeof(device::DescriptorHeader)));
    CHECK(header.run.offset >=
          header.item.offset + header.item.count * static_cast<int64_t>(sizeof(device::DescriptorItem)));
    CHECK(header.entry.offset >=
          header.run.offset + header.run.count * static_cast<int64_t>(sizeof(device::DescriptorRun)));
    CHECK(header.item.offset % 16 == 0);
    CHECK(header.entry.offset % 16 == 0);
    CHECK(static_cast<size_t>(header.item.count) == step->plan.items.size());
    CHECK(header.merge.count == static_cast<int32_t>(step->plan.merge_rows.size()));
  }
}

TEST_CASE("Every element of a KV block has a place of its own") {
  const device::KvLayout layout = {2, 3, 5, 16, 24};
  std::vector<int32_t> uses(static_cast<size_t>(layout.BlockElements()), 0);
  for (int32_t slot = 0; slot < layout.block_tokens; ++slot) {
    for (int32_t dim = 0; dim < layout.stored_dim; ++dim) {
      ++uses.at(static_cast<size_t>(layout.KeyAt(slot, dim)));
      ++uses.at(static_cast<size_t>(layout.ValueAt(slot, dim)));
    }
  }
  CHECK(std::all_of(uses.begin(), uses.end(), [](int32_t count) { return count == 1; }));
  // A pool beyond 2^31 elements.
  const device::KvLayout large = {80, 8, 1 << 16, 16, 128};
  CHECK(large.BlockAt(80 * 8 - 1, (1 << 16) - 1) == (int64_t{80} * 8 * (1 << 16) - 1) * 4096);
}

TEST_CASE("GEMM runs on few numbers of rows, never more than an activation has") {
  for (int32_t max_rows : {1, 5, 64, 500, 2048}) {
    for (int32_t rows = 1; rows <= max_rows; ++rows) {
      const int32_t bucket = device::RowBucket(rows, max_rows);
      REQUIRE(bucket >= rows);
      REQUIRE(bucket % 16 == 0);
      REQUIRE(bucket < max_rows + 16);
    }
  }
}

}  // namespace espalier::test
