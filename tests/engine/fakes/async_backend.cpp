#include "tests/engine/fakes/async_backend.h"

#include <limits>
#include <utility>

#include "kernels/ref/ref_backend.h"
#include "model/backend_runner.h"
#include "model/decoder.h"
#include "model/hashed_weights.h"

namespace espalier::test {

AsyncBackend::AsyncBackend(std::unique_ptr<Backend> inner, int32_t steps_in_flight, int32_t max_rows)
    : inner_(std::move(inner)), info_(inner_->info()), max_rows_(max_rows) {
  info_.steps_in_flight = steps_in_flight;
}

Result<RotaryId> AsyncBackend::AddRotary(std::span<const float> inv_freq, int32_t max_positions) {
  return inner_->AddRotary(inv_freq, max_positions);
}
Result<KvId> AsyncBackend::AddKv(const AttentionShape& shape, int32_t blocks, int32_t block_tokens) {
  return inner_->AddKv(shape, blocks, block_tokens);
}
Result<ActivationId> AsyncBackend::AddActivation(ActivationKind kind, int64_t cols) {
  Result<ActivationId> id = inner_->AddActivation(kind, cols);
  if (id) buffers_.push_back({*id, cols});
  return id;
}

void AsyncBackend::BeginStep(std::shared_ptr<const StepInput> step) {
  ESPALIER_CHECK(recording_.empty());
  ESPALIER_CHECK(static_cast<int32_t>(in_flight_.size()) < info_.steps_in_flight);
  Enqueue([step = std::move(step)](Backend& inner) { inner.BeginStep(step); });
}
void AsyncBackend::Embed(MatrixId table, ActivationId out) {
  Enqueue([=](Backend& inner) { inner.Embed(table, out); });
}
void AsyncBackend::RmsNorm(ActivationId in, VectorId weight, float epsilon, ActivationId out) {
  Enqueue([=](Backend& inner) { inner.RmsNorm(in, weight, epsilon, out); });
}
void AsyncBackend::MatMul(ActivationId in, MatrixId w, VectorId bias, MatMulMode mode, ActivationId out) {
  Enqueue([=](Backend& inner) { inner.MatMul(in, w, bias, mode, out); });
}
void AsyncBackend::RotaryAndStore(KvId kv, int32_t layer, const QueryKeySpec& spec, ActivationId qkv) {
  Enqueue([=](Backend& inner) { inner.RotaryAndStore(kv, layer, spec, qkv); });
}
void AsyncBackend::TreeAttention(KvId kv, int32_t layer, const AttentionSpec& spec, ActivationId qkv,
                                 ActivationId out) {
  ++attention_calls_;
  Enqueue([=](Backend& inner) { inner.TreeAttention(kv, layer, spec, qkv, out); });
}
void AsyncBackend::SwiGlu(ActivationId in, ActivationId out) {
  Enqueue([=](Backend& inner) { inner.SwiGlu(in, out); });
}
void AsyncBackend::GatherLogitRows(ActivationId in, ActivationId out) {
  Enqueue([=](Backend& inner) { inner.GatherLogitRows(in, out); });
}
void AsyncBackend::Logits(ActivationId in, MatrixId head, int32_t first_row) {
  Enqueue([=](Backend& inner) { inner.Logits(in, head, first_row); });
}
void AsyncBackend::Sample() {
  Enqueue([](Backend& inner) { inner.Sample(); });
}
void AsyncBackend::EndStep() {
  Enqueue([](Backend& inner) { inner.EndStep(); });
  in_flight_.push_back(std::exchange(recording_, {}));
}

Result<StepResult> AsyncBackend::Wait() {
  ESPALIER_CHECK(!in_flight_.empty());
  for (const Buffer& buffer : buffers_) {
    const std::vector<float> poison(static_cast<size_t>(max_rows_ * buffer.cols),
                                    std::numeric_limits<float>::quiet_NaN());
    inner_->WriteActivation(buffer.id, poison);
  }
  for (const Operation& operation : in_flight_.front()) operation(*inner_);
  in_flight_.pop_front();
  return inner_->Wait();
}

void AsyncBackend::WriteActivation(ActivationId activation, std::span<const float> values) {
  inner_->WriteActivation(activation, values);
}
std::vector<float> AsyncBackend::ReadActivation(ActivationId activation) {
  return inner_->ReadActivation(activation);
}

AsyncLlama MakeAsyncLlama(const ModelConfig& config, uint64_t seed, int32_t kv_blocks, int32_t block_tokens,
                          int32_t steps_in_flight, int32_t max_rows) {
  BackendOptions options;
  options.name = "ref";
  options.dtype = DType::kFloat32;
  options.max_rows = max_rows;
  auto backend =
      std::make_unique<AsyncBackend>(std::move(*ref::CreateRefBackend(options)), steps_in_flight, max_rows);
  const std::unique_ptr<TensorSource> weights = MakeHashedWeights(seed, DType::kFloat32);
  Result<Decoder> decoder =
      Decoder::Create(config, *weights, {kv_blocks, block_tokens}, config.max_positions, *backend);
  ModelInfo info;
  info.name = "random";
  info.vocab_size = config.vocab_size;
  info.max_positions = config.max_positions;
  info.kv_blocks = kv_blocks;
  info.block_tokens = block_tokens;
  info.eos_token_ids = config.eos_token_ids;
  info.attention = decoder->attention();
  info.backend = backend->info();
  AsyncLlama made;
  made.backend = backend.get();
  made.runner = MakeRunner(std::move(info), std::move(backend), std::move(*decoder));
  return made;
}

}  // namespace espalier::test
