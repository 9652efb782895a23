#include "kernels/ref/ref_backend.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "kernels/backend_parts.h"
#include "kernels/base/convert.h"
#include "kernels/base/int8.h"
#include "kernels/ref/ref_ops.h"

namespace espalier::ref {

namespace {

using Clock = std::chrono::steady_clock;

int64_t MicrosecondsSince(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count();
}

struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> values;  // [rows, cols]; of int8 weights q
  std::vector<float> scales;  // [rows] of int8 weights; else empty

  const float* row(int64_t r) const { return values.data() + r * cols; }
};

struct Rotary {
  RotaryShape shape;
  std::vector<float> angles;

  std::span<const float> At(int32_t position) const {  // [2, half]
    return std::span<const float>(angles).subspan(static_cast<size_t>(shape.At(position)),
                                                  static_cast<size_t>(shape.half) * 2);
  }
};

struct KvPool {
  AttentionShape shape;
  int32_t blocks = 0;
  int32_t block_tokens = 0;
  std::vector<KvLayer> layers;

  int64_t kv_slot_floats() const { return int64_t{shape.kv_heads} * shape.head_dim; }
};

struct Activation {
  int64_t cols = 0;
  int64_t rows = 0;
  std::vector<float> values;  // [max_rows, cols]

  float* row(int64_t r) { return values.data() + r * cols; }
  const float* row(int64_t r) const { return values.data() + r * cols; }
  RowFormat format() const { return {cols, cols, false}; }
};

// The rows of MatMul, quantised where the weights are.
class Operands {
 public:
  Operands(const Matrix& weights, const Activation& rows) : weights_(weights), rows_(rows) {
    if (weights.scales.empty()) return;
    groups_ = (rows.cols + kInt8Group - 1) / kInt8Group;
    quantized_.cols = rows.cols;
    std::vector<int8_t> q(kInt8Group);
    for (int64_t row = 0; row < rows.rows; ++row) {
      for (int64_t k = 0; k < rows.cols; k += kInt8Group) {
        const int64_t count = std::min<int64_t>(kInt8Group, rows.cols - k);
        scales_.push_back(QuantizeInt8(rows.row(row) + k, count, q.data()));
        quantized_.values.insert(quantized_.values.end(), q.data(), q.data() + count);
      }
    }
  }

  // Of a row and an output.
  float Element(int64_t row, int64_t n) const {
    if (weights_.scales.empty()) return Dot(rows_.row(row), weights_.row(n), weights_.cols);
    float sum = 0.0F;
    for (int64_t group = 0; group < groups_; ++group) {
      const int64_t k = group * kInt8Group;
      // Exact: all partial sums are integers below 2^24.
      const float dot =
          Dot(quantized_.row(row) + k, weights_.row(n) + k, std::min<int64_t>(kInt8Group, weights_.cols - k));
      sum +=
          dot * scales_[static_cast<size_t>(row * groups_ + group)] * weights_.scales[static_cast<size_t>(n)];
    }
    return sum;
  }

 private:
  const Matrix& weights_;
  const Activation& rows_;
  int64_t groups_ = 0;
  Activation quantized_;
  std::vector<float> scales_;  // [rows][groups]
};

class RefBackend final : public Backend {
 public:
  explicit RefBackend(const BackendOptions& options) : max_rows_(options.max_rows) {
    info_.name = "ref";
    info_.device = "host";
    info_.isa = "scalar";
    info_.dtype = DType::kFloat32;
    info_.weights = options.weights;
    info_.plan.max_tile_rows = 64;
  }

  const BackendInfo& info() const override { return info_; }

  Result<MatrixId> AddMatrix(std::span<const HostTensor> parts) override {
    Result<Matrix> matrix = Stack(parts);
    if (!matrix) return matrix.error();
    if (info_.weights == WeightType::kInt8) {
      if (Status status = QuantizeRows(&*matrix); !status.ok()) return status.error();
    }
    return Append<MatrixId>(&matrices_, std::move(*matrix));
  }

  Result<MatrixId> AddTable(std::span<const HostTensor> parts) override {
    Result<Matrix> matrix = Stack(parts);
    if (!matrix) return matrix.error();
    return Append<MatrixId>(&matrices_, std::move(*matrix));
  }

  Result<VectorId> AddVector(std::span<const HostTensor> parts) override {
    Result<std::vector<float>> values = StackedVector(parts);
    if (!values) return values.error();
    return Append<VectorId>(&vectors_, std::move(*values));
  }

  Result<RotaryId> AddRotary(std::span<const float> inv_freq, int32_t max_positions) override {
    const Result<RotaryShape> shape = RotaryShape::Of(inv_freq, max_positions);
    if (!shape) return shape.error();
    Rotary rotary{*shape, std::vector<float>(static_cast<size_t>(shape->floats()))};
    shape->Fill(inv_freq, SerialFor, rotary.angles.data());
    return Append<RotaryId>(&rotaries_, std::move(rotary));
  }

  Result<KvId> AddKv(const AttentionShape& shape, int32_t blocks, int32_t block_tokens) override {
    if (Status status = CheckKvPool(shape, blocks, block_tokens); !status.ok()) return status.error();
    KvPool pool{shape, blocks, block_tokens, {}};
    const auto floats = static_cast<size_t>(int64_t{blocks} * block_tokens * pool.kv_slot_floats());
    pool.layers.assign(static_cast<size_t>(shape.layers),
                       {std::vector<float>(floats, 0.0F), std::vector<float>(floats, 0.0F)});
    return Append<KvId>(&pools_, std::move(pool));
  }

  Result<ActivationId> AddActivation(ActivationKind, int64_t cols) override {
    if (cols <= 0) return InvalidArgument("", "an activation needs columns");
    Activation activation;
    activation.cols = cols;
    activation.values.resize(static_cast<size_t>(max_rows_ * cols));
    return Append<ActivationId>(&activations_, std::move(activation));
  }

  void BeginStep(std::shared_ptr<const StepInput> step) override {
    ESPALIER_CHECK(step_ == nullptr && !done_.has_value());
    CheckStep(*step, max_rows_);
    const Status valid = ValidateBatch(step->batch);
    ESPALIER_CHECK_MSG(valid.ok(), valid.error().ToString());
    step_ = std::move(step);
    begin_ = Clock::now();
    result_ = {};
    result_.step_id = step_->step_id;
    logit_rows_ = {};
    for (KvPool& pool : pools_) {
      for (const int32_t block : step_->zero_blocks) ZeroBlock(&pool, block);
      for (const BlockCopy& copy : step_->copies) CopyBlock(&pool, copy);
    }
    for (const SequenceHistory& history : step_->histories) sequences_.SetHistory(history);
  }

  void Embed(MatrixId table, ActivationId out) override {
    const Matrix& t = At(matrices_, table);
    Activation& o = Output(out, step_->batch.rows(), t.cols);
    for (int64_t row = 0; row < o.rows; ++row) {
      const int32_t token = sequences_.Resolve(step_->tokens[static_cast<size_t>(row)]);
      ESPALIER_CHECK(token < t.rows);
      std::copy_n(t.row(token), t.cols, o.row(row));
    }
  }

  void RmsNorm(ActivationId in, VectorId weight, float epsilon, ActivationId out) override {
    const Activation& i = At(activations_, in);
    const std::vector<float>& w = At(vectors_, weight);
    Activation& o = Output(out, i.rows, static_cast<int64_t>(w.size()));
    ESPALIER_CHECK(i.cols == o.cols);
    for (int64_t row = 0; row < i.rows; ++row) NormRow(i.row(row), w, epsilon, o.row(row));
  }

  void MatMul(ActivationId in, MatrixId w, VectorId bias, MatMulMode mode, ActivationId out) override {
    const Activation& i = At(activations_, in);
    const Matrix& m = At(matrices_, w);
    ESPALIER_CHECK(i.cols == m.cols);
    Activation& o = Output(out, i.rows, m.rows);
    const Operands operands(m, i);
    // A weight row stays in the first-level cache while all input rows use it.
    for (int64_t n = 0; n < m.rows; ++n) {
      const float b = bias == VectorId::kNone ? 0.0F : At(vectors_, bias)[static_cast<size_t>(n)];
      for (int64_t row = 0; row < i.rows; ++row) {
        const float element = operands.Element(row, n) + b;
        float& target = o.row(row)[n];
        target = mode == MatMulMode::kAccumulate ? target + element : element;
      }
    }
  }

  void RotaryAndStore(KvId kv, int32_t layer, const QueryKeySpec& spec, ActivationId qkv) override {
    KvPool& pool = At(pools_, kv);
    Activation& a = CheckedQkv(pool, qkv);
    KvLayer& target = pool.layers.at(static_cast<size_t>(layer));
    const int64_t floats = pool.kv_slot_floats();
    const auto dim = static_cast<size_t>(pool.shape.head_dim);
    for (int32_t row = 0; row < step_->batch.rows(); ++row) {
      const int32_t position = step_->batch.row_position[static_cast<size_t>(row)];
      for (int32_t head = 0; head < pool.shape.query_heads + pool.shape.kv_heads; ++head) {
        const VectorId norm = head < pool.shape.query_heads ? spec.query_norm : spec.key_norm;
        PrepareHead({a.row(row) + static_cast<size_t>(head) * dim, dim}, norm, spec, position);
      }
      const int64_t slot = step_->batch.KvSlotOfRow(row);
      ESPALIER_CHECK(slot < int64_t{pool.blocks} * pool.block_tokens);
      const float* key = a.row(row) + int64_t{pool.shape.query_heads} * pool.shape.head_dim;
      std::copy_n(key, floats, target.keys.data() + slot * floats);
      std::copy_n(key + floats, floats, target.values.data() + slot * floats);
    }
  }

  void TreeAttention(KvId kv, int32_t layer, const AttentionSpec& spec, ActivationId qkv,
                     ActivationId out) override {
    const Clock::time_point begin = Clock::now();
    KvPool& pool = At(pools_, kv);
    const Activation& a = CheckedQkv(pool, qkv);
    const int64_t cols = int64_t{pool.shape.query_heads} * pool.shape.head_dim;
    Activation& o = Output(out, a.rows, cols);
    for (int32_t row = 0; row < step_->batch.rows(); ++row) {
      const std::vector<int64_t> path = PathKvSlots(step_->batch, row);
      std::span<const int64_t> seen = path;
      if (spec.window > 0) seen = seen.last(std::min(seen.size(), static_cast<size_t>(spec.window)));
      AttendRow(pool.shape, pool.layers.at(static_cast<size_t>(layer)), seen, a.row(row), o.row(row));
    }
    result_.times.attention_us += MicrosecondsSince(begin);
  }

  void SwiGlu(ActivationId in, ActivationId out) override {
    const Activation& i = At(activations_, in);
    Activation& o = Output(out, i.rows, i.cols / 2);
    for (int64_t row = 0; row < i.rows; ++row) {
      for (int64_t c = 0; c < o.cols; ++c) {
        const float gate = i.row(row)[c];
        o.row(row)[c] = gate / (1.0F + std::exp(-gate)) * i.row(row)[o.cols + c];
      }
    }
  }

  void GatherLogitRows(ActivationId in, ActivationId out) override {
    const Activation& i = At(activations_, in);
    Activation& o = Output(out, static_cast<int64_t>(step_->logit_rows.size()), i.cols);
    for (size_t r = 0; r < step_->logit_rows.size(); ++r) {
      ESPALIER_CHECK(step_->logit_rows[r] >= 0 && step_->logit_rows[r] < i.rows);
      std::copy_n(i.row(step_->logit_rows[r]), i.cols, o.row(static_cast<int64_t>(r)));
    }
  }

  void Logits(ActivationId in, MatrixId head, int32_t first_row) override {
    const Activation& i = At(activations_, in);
    const Matrix& m = At(matrices_, head);
    ESPALIER_CHECK(i.cols == m.cols && static_cast<size_t>(i.rows) == step_->logit_rows.size());
    const int32_t rows = LogitRowsFrom(*step_, first_row);
    logits_.resize(static_cast<size_t>(rows * m.rows));
    const Operands operands(m, i);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t n = 0; n < m.rows; ++n) {
        logits_[static_cast<size_t>(row * m.rows + n)] = operands.Element(first_row + row, n);
      }
    }
    logit_rows_ = {logits_.data(), m.rows, m.rows, first_row, rows};
  }

  void Sample() override { SampleRows(*step_, logit_rows_, SerialFor, &sequences_, &result_); }

  void EndStep() override {
    ESPALIER_CHECK(step_ != nullptr);
    result_.times.forward_us = MicrosecondsSince(begin_);
    done_ = std::move(result_);
    step_ = nullptr;
  }

  Result<StepResult> Wait() override {
    ESPALIER_CHECK(done_.has_value());
    return *std::exchange(done_, std::nullopt);
  }

  void WriteActivation(ActivationId activation, std::span<const float> values) override {
    Activation& a = At(activations_, activation);
    a.rows = WholeRows(values, a.cols, max_rows_);
    StoreRows(values, a.format(), a.values.data());
  }

  std::vector<float> ReadActivation(ActivationId activation) override {
    const Activation& a = At(activations_, activation);
    return LoadRows(a.values.data(), a.rows, a.format());
  }

 private:
  static Status QuantizeRows(Matrix* matrix) {
    std::vector<int8_t> q(static_cast<size_t>(matrix->cols));
    for (int64_t row = 0; row < matrix->rows; ++row) {
      float* values = matrix->values.data() + row * matrix->cols;
      const float scale = QuantizeInt8(values, matrix->cols, q.data());
      if (!std::isfinite(scale)) return InvalidArgument("weights", kNotFiniteInt8);
      matrix->scales.push_back(scale);
      std::copy(q.begin(), q.end(), values);
    }
    return {};
  }

  static Result<Matrix> Stack(std::span<const HostTensor> parts) {
    const Result<MatrixShape> shape = StackedShape(parts);
    if (!shape) return shape.error();
    Matrix matrix{
        shape->rows, shape->cols, std::vector<float>(static_cast<size_t>(shape->rows * shape->cols)), {}};
    float* to = matrix.values.data();
    for (const HostTensor& part : parts) {
      ConvertToFloat(part.data, part.dtype, part.rows * part.cols, to);
      to += part.rows * part.cols;
    }
    return matrix;
  }

  Activation& Output(ActivationId out, int64_t rows, int64_t cols) {
    Activation& o = At(activations_, out);
    ESPALIER_CHECK(o.cols == cols && rows <= max_rows_);
    o.rows = rows;
    return o;
  }

  // A head of queries or keys becomes what attention takes.
  void PrepareHead(std::span<float> head, VectorId norm, const QueryKeySpec& spec, int32_t position) {
    if (norm != VectorId::kNone) {
      const std::vector<float>& weight = At(vectors_, norm);
      ESPALIER_CHECK(weight.size() == head.size());
      NormRow(head.data(), weight, spec.epsilon, head.data());
    }
    if (spec.rotary == RotaryId::kNone) return;
    const Rotary& rotary = At(rotaries_, spec.rotary);
    const auto half = static_cast<size_t>(rotary.shape.half);
    ESPALIER_CHECK(half * 2 == head.size());
    const std::span<const float> angles = rotary.At(position);
    RotateHead(head, angles.first(half), angles.last(half));
  }

  Activation& CheckedQkv(const KvPool& pool, ActivationId qkv) {
    Activation& a = At(activations_, qkv);
    CheckQkv(pool.shape, pool.block_tokens, *step_, a.rows, a.cols);
    return a;
  }

  static void ZeroBlock(KvPool* pool, int32_t block) {
    const int64_t floats = pool->kv_slot_floats() * pool->block_tokens;
    for (KvLayer& layer : pool->layers) {
      std::fill_n(layer.keys.data() + block * floats, floats, 0.0F);
      std::fill_n(layer.values.data() + block * floats, floats, 0.0F);
    }
  }

  static void CopyBlock(KvPool* pool, const BlockCopy& copy) {
    const int64_t floats = pool->kv_slot_floats() * pool->block_tokens;
    const int64_t count = pool->kv_slot_floats() * copy.tokens;
    for (KvLayer& layer : pool->layers) {
      std::copy_n(layer.keys.data() + copy.source * floats, count,
                  layer.keys.data() + copy.destination * floats);
      std::copy_n(layer.values.data() + copy.source * floats, count,
                  layer.values.data() + copy.destination * floats);
    }
  }

  int64_t max_rows_;
  BackendInfo info_;
  std::vector<Matrix> matrices_;
  std::vector<std::vector<float>> vectors_;
  std::vector<Rotary> rotaries_;
  std::vector<KvPool> pools_;
  std::vector<Activation> activations_;
  std::vector<float> logits_;  // of logit_rows_
  LogitRows logit_rows_;
  SequenceStore sequences_;
  std::shared_ptr<const StepInput> step_;
  Clock::time_point begin_;
  StepResult result_;
  std::optional<StepResult> done_;
};

}  // namespace

Result<std::unique_ptr<Backend>> CreateRefBackend(const BackendOptions& options) {
  return std::unique_ptr<Backend>(std::make_unique<RefBackend>(options));
}

}  // namespace espalier::ref
