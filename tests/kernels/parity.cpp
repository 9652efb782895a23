#include "tests/kernels/parity.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

#include "tests/support/env.h"
#include "tests/support/isa.h"
#ifdef ESPALIER_PARITY_EMULATOR
#include "tests/kernels/host_emulator.h"
#endif

namespace espalier::test {

namespace {

constexpr int32_t kMaxPositions = 4096;

std::string why_not;  // the error of the last candidate that could not be made

HostTensor View(const std::vector<float>& values, int64_t rows) {
  return {values.data(), DType::kFloat32, rows, static_cast<int64_t>(values.size()) / rows};
}

Result<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options) {
#ifdef ESPALIER_PARITY_EMULATOR
  // The threads of a block in one order or another: kernels that race show.
  device::HostEmulatorOptions emulator;
  emulator.order =
      options.dtype == DType::kFloat32 ? device::ThreadOrder::kAscending : device::ThreadOrder::kDescending;
  return device::CreateHostEmulatorBackend(options, emulator);
#else
  return CreateBackend(options);
#endif
}

}  // namespace

std::vector<Candidate> MakeCandidates(int32_t max_rows, WeightType weights) {
  std::vector<Candidate> candidates;
  std::vector<std::string> sets = {"auto"};
  if (std::string(ESPALIER_PARITY_BACKEND) == "cpu") {
    sets = {"portable", "avx2", "avx512_no_bf16", "avx512_bf16", "amx", "amx_emulated"};
    if (const char* only = std::getenv("ESPALIER_PARITY_ISA"); only != nullptr) sets = {only};
  }
  for (const std::string& isa : sets) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      BackendOptions options;
      options.name = ESPALIER_PARITY_BACKEND;
      options.isa = isa;
      options.dtype = dtype;
      options.weights = weights;
      options.threads = 2;
      options.max_rows = max_rows;
      Result<std::unique_ptr<Backend>> backend = MakeBackend(options);
      if (!backend) {
        why_not = backend.error().ToString();
        if (options.name == "cpu") REQUIRE_FALSE(HasIsa(isa));
        continue;
      }
      const std::string name = options.name + " " + isa + " " + Name(dtype) + ", weights " + Name(weights);
      candidates.push_back({name, dtype, std::move(*backend), weights});
    }
  }
  return candidates;
}

std::unique_ptr<Backend> MakeRef(int32_t max_rows, WeightType weights) {
  BackendOptions options;
  options.name = "ref";
  options.weights = weights;
  options.max_rows = max_rows;
  return CreateBackend(options).value();
}

bool SkipWithout(const std::vector<Candidate>& candidates) {
  if (!candidates.empty()) return false;
  SkipTest("backend " ESPALIER_PARITY_BACKEND " is not available here: " + why_not);
  return true;
}

double Tolerance(DType dtype) { return dtype == DType::kFloat32 ? 5e-6 : 6e-3; }

double ToleranceOf(const Candidate& candidate) {
  return Tolerance(candidate.weights == WeightType::kInt8 ? DType::kFloat32 : candidate.dtype);
}

double NormalisedError(std::span<const float> actual, std::span<const float> expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double difference = 0.0;
  double scale = 0.0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(actual[i])) return std::numeric_limits<double>::infinity();
    const double d = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    difference += d * d;
    scale += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return difference == 0.0 ? 0.0 : std::sqrt(difference / scale);
}

std::vector<float> RandomValues(Random& random, size_t count, float spread) {
  // Uniform: much cheaper than normal, and pools hold millions of values.
  const float scale = spread * 1.7320508F * 0x1p-31F;
  std::vector<float> values(count);
  for (float& value : values) {
    value = ToFloat(ToBFloat16(static_cast<float>(static_cast<int32_t>(random())) * scale));
  }
  return values;
}

MatrixId AddMatrix(Backend& backend, const std::vector<float>& values, int64_t rows) {
  const HostTensor part = View(values, rows);
  return backend.AddMatrix({&part, 1}).value();
}

MatrixId AddTable(Backend& backend, const std::vector<float>& values, int64_t rows) {
  const HostTensor part = View(values, rows);
  return backend.AddTable({&part, 1}).value();
}

VectorId AddVector(Backend& backend, const std::vector<float>& values) {
  const HostTensor part = View(values, 1);
  return backend.AddVector({&part, 1}).value();
}

ActivationId PoisonedActivation(Backend& backend, ActivationKind kind, int64_t cols, int32_t rows) {
  const ActivationId id = backend.AddActivation(kind, cols).value();
  Poison(backend, id, cols, rows);
  return id;
}

void Poison(Backend& backend, ActivationId activation, int64_t cols, int32_t rows) {
  backend.WriteActivation(activation, std::vector<float>(static_cast<size_t>(cols * rows),
                                                         std::numeric_limits<float>::quiet_NaN()));
}

std::shared_ptr<StepInput> MakeStep(const TreeBatch& batch) {
  auto step = std::make_shared<StepInput>();
  step->batch = batch;
  step->tokens.assign(static_cast<size_t>(batch.rows()), RowToken{0, -1});
  return step;
}

TreeBatch RowsOnly(int32_t rows) {
  Random random(0);
  return rows == 0 ? TreeBatch{} : PrefillForest(random, 0, rows).batch;
}

AttentionRig::AttentionRig(Backend& backend, const AttentionShape& shape, int32_t blocks,
                           int32_t block_tokens, int32_t max_rows)
    : backend_(backend), shape_(shape), blocks_(blocks), block_tokens_(block_tokens), max_rows_(max_rows) {
  kv_ = backend.AddKv(shape, blocks, block_tokens).value();
  std::vector<float> frequencies(static_cast<size_t>(shape.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(10000.0F, -2.0F * static_cast<float>(i) / static_cast<float>(shape.head_dim));
  }
  spec_.rotary = backend.AddRotary(frequencies, kMaxPositions).value();
  qkv_ = backend.AddActivation(ActivationKind::kResidual, qkv_cols()).value();
  out_ = backend.AddActivation(ActivationKind::kOperand, int64_t{shape.query_heads} * shape.head_dim).value();
}

int64_t AttentionRig::qkv_cols() const {
  return int64_t{shape_.query_heads + 2 * shape_.kv_heads} * shape_.head_dim;
}

void AttentionRig::Fill(uint32_t seed) {
  Random random(seed);
  const int32_t blocks_at_once = std::max(1, max_rows_ / block_tokens_);
  for (int32_t first = 0; first < blocks_; first += blocks_at_once) {
    TreeBatch batch = RowsOnly(std::min(blocks_at_once, blocks_ - first) * block_tokens_);
    batch.block_tokens = block_tokens_;
    batch.blocks.clear();
    for (int32_t row = 0; row < batch.rows(); row += block_tokens_) {
      batch.blocks.push_back(first + row / block_tokens_);
    }
    const auto values = RandomValues(random, static_cast<size_t>(batch.rows() * qkv_cols()));
    RunStep(backend_, MakeStep(batch), [&] {
      backend_.WriteActivation(qkv_, values);
      backend_.RotaryAndStore(kv_, 0, {}, qkv_);
    });
  }
}

std::vector<float> AttentionRig::Attend(std::shared_ptr<const StepInput> step, std::span<const float> qkv) {
  return AttendAndTurn(std::move(step), qkv).attention;
}

AttentionRig::Attended AttentionRig::AttendAndTurn(std::shared_ptr<const StepInput> step,
                                                   std::span<const float> qkv) {
  Attended result;
  RunStep(backend_, std::move(step), [&] {
    backend_.WriteActivation(qkv_, qkv);
    Poison(backend_, out_, int64_t{shape_.query_heads} * shape_.head_dim, max_rows_);
    backend_.RotaryAndStore(kv_, 0, spec_, qkv_);
    result.qkv = backend_.ReadActivation(qkv_);
    backend_.TreeAttention(kv_, 0, attention_spec_, qkv_, out_);
    result.attention = backend_.ReadActivation(out_);
  });
  return result;
}

}  // namespace espalier::test
