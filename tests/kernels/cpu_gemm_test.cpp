#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/int8.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/kernels/parity.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#include "tests/support/isa.h"

// GEMM as the backend divides it among threads.
namespace espalier::cpu {

namespace {

using test::RandomValues;

std::unique_ptr<ThreadPool> Pool(int32_t threads) { return ThreadPool::Create(threads).value(); }

enum class Weights { kFp32, kBf16, kInt8 };

// A [rows, k] of operands times a matrix of 150 outputs, plus a bias: ten panels, in blocks of 4, 4 and 2.
class GemmRig {
 public:
  static constexpr int32_t kWidth = 150;
  static constexpr int32_t kPaddedWidth = 160;

  GemmRig(const KernelTable& kernels, Weights weights, int32_t k, int32_t max_rows, uint32_t seed)
      : kernels_(kernels), weights_(weights), matrix_(Pack(weights, k, seed)) {
    test::Random random(seed + 1);
    bias_ = RandomValues(random, kPaddedWidth);
    stride_ = RoundUp(k, 64);
    groups_ = (k + kInt8Group - 1) / kInt8Group;
    values_.resize(static_cast<size_t>(max_rows * stride_));
    for (int32_t row = 0; row < max_rows; ++row) {
      const std::vector<float> of_row = RandomValues(random, static_cast<size_t>(k));
      std::copy(of_row.begin(), of_row.end(), values_.begin() + row * stride_);
    }
    std::transform(values_.begin(), values_.end(), std::back_inserter(bf16_), ToBFloat16);
    q_.resize(values_.size());
    scales_.resize(static_cast<size_t>(max_rows * groups_));
    starts_.resize(scales_.size());
    for (int32_t row = 0; row < max_rows; ++row) {
      kernels.quantize_row({values_.data() + row * stride_, k, q_.data() + row * stride_,
                            scales_.data() + row * groups_, starts_.data() + row * groups_});
    }
  }

  std::vector<float> Run(int32_t rows, int32_t row_parts) const {
    std::vector<float> c(static_cast<size_t>(rows) * kPaddedWidth, -7.0F);
    GemmArgs args;
    const bool bf16 = weights_ == Weights::kBf16 && kernels_.bf16_operands;
    args.a = bf16 ? static_cast<const void*>(bf16_.data()) : values_.data();
    args.a_stride = stride_;
    args.weights = matrix_.data();
    args.c = c.data();
    args.c_stride = kPaddedWidth;
    args.bias = bias_.data();
    args.rows = rows;
    args.k = static_cast<int32_t>(matrix_.cols());
    args.panels = matrix_.panels();
    args.panels_per_block = matrix_.panels_per_block();
    args.row_parts = row_parts;
    auto gemm = weights_ == Weights::kFp32 ? kernels_.gemm_fp32 : kernels_.gemm_bf16;
    if (weights_ == Weights::kInt8) {
      gemm = kernels_.gemm_int8;
      args.a = q_.data();
      args.weight_scales = matrix_.scales();
      args.a_scales = scales_.data();
      args.a_starts = starts_.data();
      args.a_groups = groups_;
    }
    for (int32_t unit = 0; unit < matrix_.blocks() * row_parts; ++unit) gemm(args, unit);
    return c;
  }

 private:
  static PackedMatrix Pack(Weights weights, int32_t k, uint32_t seed) {
    test::Random random(seed);
    const std::vector<float> values = RandomValues(random, static_cast<size_t>(kWidth * k));
    const HostTensor part = {values.data(), DType::kFloat32, kWidth, k};
    return PackedMatrix::Pack({&part, 1}, weights == Weights::kFp32 ? DType::kFloat32 : DType::kBFloat16,
                              weights == Weights::kInt8 ? WeightType::kInt8 : WeightType::kDType,
                              Pool(2).get())
        .value();
  }

  const KernelTable& kernels_;
  Weights weights_;
  PackedMatrix matrix_;
  std::vector<float> bias_;
  int64_t stride_ = 0;
  int64_t groups_ = 0;
  std::vector<float> values_;
  std::vector<bf16_t> bf16_;
  std::vector<int8_t> q_;
  std::vector<float> scales_;
  std::vector<int32_t> starts_;
};

}  // namespace

TEST_CASE("A row of a GEMM has the same bits however rows are divided") {
  constexpr int32_t kMaxRows = 150;
  const uint32_t seed = std::random_device()();
  for (const std::string isa : {"portable", "avx2", "avx512_no_bf16", "avx512_bf16", "amx", "amx_emulated"}) {
    if (!test::HasIsa(isa)) continue;
    const Result<const KernelTable*> kernels = ChooseKernels(isa);
    for (const Weights weights : {Weights::kFp32, Weights::kBf16, Weights::kInt8}) {
      for (const int32_t k : {32, 300}) {
        const GemmRig rig(**kernels, weights, k, kMaxRows, seed);
        const std::vector<float> all = rig.Run(kMaxRows, 1);
        for (const int32_t rows : {1, 2, 7, 13, 64, 65, kMaxRows}) {
          for (const int32_t parts : {1, 2, 3, 5, rows}) {
            if (parts > rows) continue;
            INFO(isa << ", weights " << static_cast<int>(weights) << ", k " << k << ", " << rows
                     << " rows in " << parts << " parts, seed " << seed);
            const std::vector<float> some = rig.Run(rows, parts);
            CHECK(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)) == 0);
          }
        }
      }
    }
  }
}

namespace {

// GEMM of every row count that tiles treat differently, by two instruction sets.
void CheckSameBits(const std::string& one, const std::string& other, Weights weights) {
  const Result<const KernelTable*> kernels[] = {ChooseKernels(one), ChooseKernels(other)};
  for (const auto& chosen : kernels) {
    if (!chosen) return test::SkipTest(chosen.error().ToString());
  }
  const uint32_t seed = std::random_device()();
  for (const int32_t k : {32, 300}) {
    const GemmRig rig(**kernels[0], weights, k, 130, seed);
    const GemmRig other_rig(**kernels[1], weights, k, 130, seed);
    for (const int32_t rows : {1, 15, 17, 50, 64, 130}) {
      INFO(one << " and " << other << ", k " << k << ", " << rows << " rows, seed " << seed);
      CHECK(rig.Run(rows, 1) == other_rig.Run(rows, 1));
    }
  }
}

}  // namespace

TEST_CASE("int8 weights give the same bits by vectors and by tiles") {
  CheckSameBits("avx512_bf16", "amx_emulated", Weights::kInt8);
}

TEST_CASE("AMX and its emulation give the same bits") {
  for (const Weights weights : {Weights::kBf16, Weights::kInt8}) {
    CheckSameBits("amx", "amx_emulated", weights);
  }
}

TEST_CASE("Rows are divided where whole blocks would leave a thread idle") {
  const std::unique_ptr<ThreadPool> pool = Pool(2);
  const auto matrix = [&](int64_t outputs) {
    const std::vector<float> values(static_cast<size_t>(outputs * 32), 1.0F);
    const HostTensor part = {values.data(), DType::kFloat32, outputs, 32};
    return PackedMatrix::Pack({&part, 1}, DType::kBFloat16, WeightType::kDType, pool.get()).value();
  };
  const PackedMatrix three = matrix(160);
  REQUIRE(three.blocks() == 3);
  CHECK(three.RowParts(1, 2) == 1);
  CHECK(three.RowParts(11, 2) == 1);
  CHECK(three.RowParts(12, 2) == 2);
  CHECK(three.RowParts(512, 2) == 2);
  CHECK(three.RowParts(512, 1) == 1);
  CHECK(three.RowParts(512, 4) == 4);
  const PackedMatrix four = matrix(256);
  REQUIRE(four.blocks() == 4);
  CHECK(four.RowParts(512, 2) == 1);
  // An odd number of blocks, but many: the weights would be read twice.
  const PackedMatrix many = matrix(int64_t{16} * 67);
  REQUIRE(many.blocks() == 17);
  CHECK(many.RowParts(512, 2) == 1);
}

}  // namespace espalier::cpu
