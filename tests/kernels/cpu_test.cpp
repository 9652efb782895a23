#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/peaks.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/support/catch.h"

namespace espalier::cpu {

namespace {

std::string FieldOfError(const BackendOptions& options) {
  const Result<std::unique_ptr<Backend>> backend = CreateCpuBackend(options);
  return backend.ok() ? "accepted" : backend.error().field;
}

}  // namespace

TEST_CASE("A shared loop calls every index once and returns after the last") {
  for (const int32_t threads : {1, 2, 5}) {
    Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::Create(threads);
    REQUIRE(pool.ok());
    for (int64_t loop = 0; loop < 3000; ++loop) {
      const int64_t count = loop % 41;
      std::vector<int32_t> calls(static_cast<size_t>(count), 0);
      std::vector<int64_t> by_thread(static_cast<size_t>(threads), 0);
      (*pool)->ParallelFor(count, 1 + loop % 3, [&](int64_t i, int32_t thread) {
        ++calls[static_cast<size_t>(i)];
        ++by_thread.at(static_cast<size_t>(thread));
      });
      int64_t total = 0;
      for (const int64_t n : by_thread) total += n;
      const bool once = calls == std::vector<int32_t>(static_cast<size_t>(count), 1);
      if (!once || total != count) FAIL("loop " << loop << " with " << threads << " threads");
    }
  }
}

TEST_CASE("Workers take part in a loop that the caller cannot finish alone") {
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::Create(3);
  REQUIRE(pool.ok());
  // Each index waits until all three run: the loop ends only if three threads share it.
  for (int32_t loop = 0; loop < 20; ++loop) {
    std::atomic<int32_t> running{0};
    (*pool)->ParallelFor(3, 1, [&](int64_t, int32_t) {
      ++running;
      while (running.load() < 3) std::this_thread::yield();
    });
    CHECK(running.load() == 3);
  }
}

TEST_CASE("Packed weights give back every row, whatever the shape") {
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::Create(2);
  REQUIRE(pool.ok());
  for (const int64_t rows : {1, 16, 17, 700}) {
    for (const int64_t cols : {1, 31, 128, 129, 300}) {
      std::vector<float> values(static_cast<size_t>(rows * cols));
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 251) - 125.0F;
      const int64_t first = rows / 2;  // two parts where there are two rows
      std::vector<HostTensor> parts;
      if (first > 0) parts.push_back({values.data(), DType::kFloat32, first, cols});
      parts.push_back({values.data() + first * cols, DType::kFloat32, rows - first, cols});
      for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
        Result<PackedMatrix> matrix = PackedMatrix::Pack(parts, dtype, WeightType::kDType, pool->get());
        REQUIRE(matrix.ok());
        std::vector<float> read(values.size());
        for (int64_t row = 0; row < rows; ++row) matrix->ReadRow(row, read.data() + row * cols);
        CHECK(read == values);
      }
    }
  }
}

TEST_CASE("int8 weights give back every row within half a step of its scale, and what int8 holds exactly") {
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::Create(2);
  REQUIRE(pool.ok());
  constexpr int64_t kRows = 35;
  for (const int64_t cols : {1, 31, 128, 300}) {
    std::vector<float> values(static_cast<size_t>(kRows * cols));
    for (size_t i = 0; i < values.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / cols;
      // Even rows hold multiples of their scale, 127 first; odd ones anything; the last nothing but zeros.
      values[i] = row % 2 == 0 ? 0.25F * (127.0F - static_cast<float>(i % static_cast<size_t>(cols) % 255))
                               : std::sin(static_cast<float>(i)) * static_cast<float>(row);
      if (row == kRows - 1) values[i] = 0.0F;
    }
    const HostTensor part = {values.data(), DType::kFloat32, kRows, cols};
    Result<PackedMatrix> matrix =
        PackedMatrix::Pack({&part, 1}, DType::kBFloat16, WeightType::kInt8, pool->get());
    REQUIRE(matrix.ok());
    std::vector<float> read(static_cast<size_t>(cols));
    for (int64_t row = 0; row < kRows; ++row) {
      matrix->ReadRow(row, read.data());
      const float* expected = values.data() + row * cols;
      float largest = 0.0F;
      float error = 0.0F;
      for (int64_t i = 0; i < cols; ++i) {
        largest = std::max(largest, std::abs(expected[i]));
        error = std::max(error, std::abs(read[static_cast<size_t>(i)] - expected[i]));
      }
      INFO("row " << row << " of " << cols);
      CHECK(matrix->scales()[row] == largest / 127.0F);
      CHECK(error <= (row % 2 == 0 ? 0.0F : largest / 127.0F * 0.5001F));
    }
  }
}

TEST_CASE("int8 weights refuse what they cannot hold, by the setting's name") {
  BackendOptions options;
  options.weights = WeightType::kInt8;
  options.threads = 1;
  const std::unique_ptr<Backend> backend = CreateCpuBackend(options).value();
  std::vector<float> values(64 * 40, 1.0F);
  const HostTensor part = {values.data(), DType::kFloat32, 40, 64};
  CHECK(backend->AddMatrix({&part, 1}).ok());
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    values[37 * 64 + 5] = bad;
    const Result<MatrixId> refused = backend->AddMatrix({&part, 1});
    REQUIRE(!refused.ok());
    CHECK(refused.error().field == "weights");
    CHECK(backend->AddTable({&part, 1}).ok());
  }
}

TEST_CASE("Options the CPU backend cannot serve are refused by name") {
  BackendOptions options;
  options.threads = -1;
  CHECK(FieldOfError(options) == "threads");
  options.threads = 1;
  options.isa = "sse9";
  CHECK(FieldOfError(options) == "isa");
  options.isa = "amx_of_another_machine";
  CHECK(FieldOfError(options) == "isa");
  options.isa = "portable";
  options.dtype = DType::kFloat16;
  CHECK(FieldOfError(options) == "dtype");
  options.dtype = DType::kBFloat16;
  CHECK(FieldOfError(options) == "accepted");
}

TEST_CASE("KV pools that cannot be are refused by name") {
  BackendOptions options;
  options.threads = 1;
  Result<std::unique_ptr<Backend>> backend = CreateCpuBackend(options);
  REQUIRE(backend.ok());
  const auto field = [&](int32_t head_dim, int32_t blocks, int32_t block_tokens) {
    AttentionShape shape;
    shape.layers = 32;
    shape.query_heads = 8;
    shape.kv_heads = 8;
    shape.head_dim = head_dim;
    const Result<KvId> kv = (*backend)->AddKv(shape, blocks, block_tokens);
    return kv.ok() ? std::string("accepted") : kv.error().field;
  };
  CHECK(field(73, 4, 16) == "head_dim");
  CHECK(field(64, 4, 24) == "block_tokens");
  CHECK(field(128, INT32_MAX, 256) == "kv-cache-bytes");
  CHECK(field(64, 2, 16) == "accepted");
}

TEST_CASE("What attention costs is measured for a KV pool of a model's size, and leaves nothing behind") {
  BackendOptions options;
  options.threads = 2;
  options.max_rows = 64;
  Result<std::unique_ptr<Backend>> backend = CreateCpuBackend(options);
  REQUIRE(backend.ok());
  AttentionShape shape;
  shape.layers = 32;
  shape.query_heads = 8;
  shape.kv_heads = 2;
  shape.head_dim = 64;
  const auto costs_with = [&](int32_t blocks) {
    const Result<KvId> kv = (*backend)->AddKv(shape, blocks, 16);
    REQUIRE(kv.ok());
    const PlanCosts costs = (*backend)->info().plan.costs;
    return std::array<int64_t, 3>{costs.token, costs.partial, costs.item};
  };
  const PlanCosts unmeasured;
  CHECK(costs_with(4) == std::array<int64_t, 3>{unmeasured.token, unmeasured.partial, unmeasured.item});
  const auto [token, partial, item] = costs_with(1024);  // 256 MiB
  CHECK((token >= 4 && token <= 256));
  CHECK((partial >= 8 && partial <= 256));
  CHECK((item >= 64 && item <= 65536));
  // Ids count what was added.
  const Result<ActivationId> first = (*backend)->AddActivation(ActivationKind::kResidual, 32);
  REQUIRE(first.ok());
  CHECK(static_cast<int32_t>(*first) == 0);
  const Result<KvId> third = (*backend)->AddKv(shape, 4, 16);
  REQUIRE(third.ok());
  CHECK(static_cast<int32_t>(*third) == 2);
}

TEST_CASE("Peaks of the machine are measured") {
  Result<const KernelTable*> kernels = ChooseKernels("auto");
  REQUIRE(kernels.ok());
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::Create(1);
  REQUIRE(pool.ok());
  const Result<CpuPeaks> peaks = MeasurePeaks(**kernels, pool->get(), int64_t{8} << 20);
  REQUIRE(peaks.ok());
  CHECK(peaks->read_bytes_per_second > 1e8);
  CHECK(peaks->bf16_flop_per_second > 1e8);
  CHECK(peaks->int8_op_per_second > 1e8);
}

}  // namespace espalier::cpu
