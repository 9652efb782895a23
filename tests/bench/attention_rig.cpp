#include "tests/bench/attention_rig.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/base/mix.h"

namespace espalier::bench {

namespace {

// SplitMix64: a random number for each counter.
uint64_t RandomBits(uint64_t counter) { return Mix(counter * kGoldenStep + kGoldenStep); }

// Multiples of 1/64 in (-2, 2): uniform, and exact in bf16.
float ValueOf(uint64_t bits) { return static_cast<float>(static_cast<int32_t>(bits & 0xFF) - 128) / 64.0F; }

// KV slots that a row sees, in the order of its path.
std::vector<int64_t> PathOf(const TreeBatch& batch, int32_t row) {
  std::vector<int64_t> slots;
  for (const BatchNode& node : batch.nodes) {
    if (row < node.first_row || row >= node.subtree_end_row) continue;
    for (int32_t i = 0; i < node.cached_tokens; ++i) {
      const int64_t block = batch.blocks[static_cast<size_t>(node.first_block + i / batch.block_tokens)];
      slots.push_back(block * batch.block_tokens + i % batch.block_tokens);
    }
    for (int32_t own = node.first_row; own < node.first_row + node.rows; ++own) {
      if (own <= row && row < batch.row_subtree_end[static_cast<size_t>(own)])
        slots.push_back(batch.KvSlotOfRow(own));
    }
  }
  return slots;
}

// A path of as many rows as fill `count` blocks from `first` on.
TreeBatch BlocksAsRows(int32_t first, int32_t count, int32_t block_tokens) {
  TreeBatch batch;
  batch.block_tokens = block_tokens;
  BatchNode node;
  node.rows = count * block_tokens;
  node.subtree_end_row = node.rows;
  batch.nodes.push_back(node);
  for (int32_t i = 0; i < count; ++i) batch.blocks.push_back(first + i);
  for (int32_t row = 0; row < node.rows; ++row) {
    batch.row_node.push_back(0);
    batch.row_position.push_back(row);
    batch.row_subtree_end.push_back(node.rows);
  }
  return batch;
}

}  // namespace

Result<std::unique_ptr<AttentionRig>> AttentionRig::Create(const BackendOptions& options,
                                                           const AttentionShape& shape, int32_t blocks,
                                                           int32_t block_tokens) {
  auto backend = CreateBackend(options);
  if (!backend) return backend.error();
  std::unique_ptr<AttentionRig> rig(
      new AttentionRig(std::move(*backend), shape, block_tokens, options.max_rows));
  if (Status status = rig->AddBuffers(blocks); !status) return status.error();
  if (Status status = rig->Fill(blocks); !status) return status.error();
  return rig;
}

AttentionRig::AttentionRig(std::unique_ptr<Backend> backend, const AttentionShape& shape,
                           int32_t block_tokens, int32_t max_rows)
    : backend_(std::move(backend)), shape_(shape), block_tokens_(block_tokens), max_rows_(max_rows) {}

int64_t AttentionRig::columns() const {
  return int64_t{shape_.query_heads + 2 * shape_.kv_heads} * shape_.head_dim;
}

Status AttentionRig::AddBuffers(int32_t blocks) {
  const auto kv = backend_->AddKv(shape_, blocks, block_tokens_);
  if (!kv) return kv.error();
  kv_ = *kv;
  const auto qkv = backend_->AddActivation(ActivationKind::kResidual, columns());
  if (!qkv) return qkv.error();
  qkv_ = *qkv;
  const auto out =
      backend_->AddActivation(ActivationKind::kOperand, int64_t{shape_.query_heads} * shape_.head_dim);
  if (!out) return out.error();
  out_ = *out;
  return {};
}

void AttentionRig::FillRow(int64_t slot, float* row) const {
  const auto count = static_cast<uint64_t>(columns());
  for (uint64_t column = 0; column < count; ++column)
    row[column] = ValueOf(RandomBits(static_cast<uint64_t>(slot) * count + column) >> 32);
}

std::shared_ptr<StepInput> AttentionRig::Step(const TreeBatch& batch) const {
  auto step = std::make_shared<StepInput>();
  step->step_id = step_;
  step->batch = batch;
  step->tokens.assign(static_cast<size_t>(batch.rows()), {0, -1});
  return step;
}

Result<StepResult> AttentionRig::Store(const TreeBatch& batch) {
  std::vector<float> values(static_cast<size_t>(batch.rows() * columns()));
  for (int32_t row = 0; row < batch.rows(); ++row)
    FillRow(batch.KvSlotOfRow(row), values.data() + row * columns());
  ++step_;
  backend_->BeginStep(Step(batch));
  backend_->WriteActivation(qkv_, values);
  for (int32_t layer = 0; layer < shape_.layers; ++layer) backend_->RotaryAndStore(kv_, layer, {}, qkv_);
  backend_->EndStep();
  return backend_->Wait();
}

Status AttentionRig::Fill(int32_t blocks) {
  const int32_t at_once = std::max(1, max_rows_ / block_tokens_);
  for (int32_t first = 0; first < blocks; first += at_once) {
    const auto stored = Store(BlocksAsRows(first, std::min(at_once, blocks - first), block_tokens_));
    if (!stored) return stored.error();
  }
  return {};
}

Status AttentionRig::Prepare(const TreeBatch& batch) {
  const auto stored = Store(batch);
  return stored ? Status() : Status(stored.error());
}

Result<double> AttentionRig::Attend(const TreeBatch& batch, const AttentionPlan& plan) {
  auto step = Step(batch);
  step->step_id = ++step_;
  step->plan = plan;
  backend_->BeginStep(std::move(step));
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    backend_->FlushCaches();
    backend_->TreeAttention(kv_, layer, {}, qkv_, out_);
  }
  backend_->EndStep();
  const auto result = backend_->Wait();
  if (!result) return result.error();
  return static_cast<double>(result->times.attention_us) / shape_.layers;
}

std::vector<double> AttentionRig::Expected(const TreeBatch& batch, int32_t row) const {
  const int32_t dim = shape_.head_dim;
  const int32_t key = shape_.query_heads * dim;
  const int32_t value = key + shape_.kv_heads * dim;
  const std::vector<int64_t> path = PathOf(batch, row);
  std::vector<float> tokens(path.size() * static_cast<size_t>(columns()));
  for (size_t i = 0; i < path.size(); ++i)
    FillRow(path[i], tokens.data() + i * static_cast<size_t>(columns()));
  std::vector<float> query(static_cast<size_t>(columns()));
  FillRow(batch.KvSlotOfRow(row), query.data());

  std::vector<double> out(static_cast<size_t>(key), 0.0);
  std::vector<double> weights(path.size());
  for (int32_t head = 0; head < shape_.query_heads; ++head) {
    const int32_t kv_head = head / shape_.group();
    double sum = 0.0;
    double max = 0.0;
    for (size_t i = 0; i < path.size(); ++i) {
      const float* token = tokens.data() + i * static_cast<size_t>(columns());
      double score = 0.0;
      for (int32_t d = 0; d < dim; ++d)
        score += double{query[static_cast<size_t>(head * dim + d)]} * double{token[key + kv_head * dim + d]};
      weights[i] = score / std::sqrt(dim);
      max = i == 0 ? weights[i] : std::max(max, weights[i]);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - max);
    for (size_t i = 0; i < path.size(); ++i) {
      const float* token = tokens.data() + i * static_cast<size_t>(columns());
      for (int32_t d = 0; d < dim; ++d)
        out[static_cast<size_t>(head * dim + d)] +=
            weights[i] / sum * double{token[value + kv_head * dim + d]};
    }
  }
  return out;
}

double AttentionRig::LargestError(const TreeBatch& batch, int32_t max_rows) {
  const std::vector<float> actual = backend_->ReadActivation(out_);
  const size_t width = static_cast<size_t>(shape_.query_heads) * static_cast<size_t>(shape_.head_dim);
  const int32_t count = std::min(max_rows, batch.rows());
  double error = 0.0;
  double largest = 0.0;
  for (int32_t i = 0; i < count; ++i) {
    const auto row = static_cast<int32_t>(int64_t{i} * batch.rows() / count);
    const std::vector<double> expected = Expected(batch, row);
    for (size_t c = 0; c < width; ++c) {
      const double value = actual[static_cast<size_t>(row) * width + c];
      // A NaN must not pass as the smaller of two.
      const double difference = std::isfinite(value) ? std::abs(value - expected[c]) : HUGE_VAL;
      error = std::max(error, difference);
      largest = std::max(largest, std::abs(expected[c]));
    }
  }
  return largest > 0.0 ? error / largest : error;
}

}  // namespace espalier::bench
