#include "model/decoder.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "model/rope.h"

namespace espalier {

AttentionShape AttentionOf(const ModelConfig& config, DType kv_dtype, int32_t head_dim_multiple) {
  const int32_t multiples = (config.head_dim + head_dim_multiple - 1) / head_dim_multiple;
  return {.layers = config.layer_count(),
          .query_heads = config.query_heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .kv_dtype = kv_dtype,
          .stored_dim = multiples * head_dim_multiple};
}

Result<Decoder> Decoder::Create(const ModelConfig& config, TensorSource& source, const KvPoolSize& kv,
                                int32_t max_positions, Backend& backend) {
  Decoder decoder;
  decoder.specs_ = config.layers;
  decoder.attention_ = AttentionOf(config, backend.info().dtype, backend.info().head_dim_multiple);
  decoder.epsilon_ = config.rms_norm_epsilon;
  auto weights = AddWeights(config, source, backend);
  if (!weights) return weights.error();
  decoder.weights_ = std::move(*weights);
  if (auto status = decoder.AddBuffers(config, max_positions, backend); !status.ok()) return status.error();
  if (auto status = decoder.AddKv(kv, backend); !status.ok()) return status.error();
  return decoder;
}

// After everything else, so that what is left can be asked for.
Status Decoder::AddKv(const KvPoolSize& size, Backend& backend) {
  kv_size_ = size;
  if (size.blocks == 0) {
    const int64_t block_bytes = attention_.KvBytesPerTokenLayer() * attention_.layers * size.block_tokens;
    const int64_t max = std::numeric_limits<int32_t>::max() / size.block_tokens;
    kv_size_.blocks = static_cast<int32_t>(std::min(backend.FreeKvBytes() / block_bytes, max));
    if (kv_size_.blocks < 1) {
      return Error{ErrorCode::kResourceExhausted, "kv_cache_bytes",
                   "the device has no memory left for a KV pool next to the model"};
    }
  }
  const auto pool = backend.AddKv(attention_, kv_size_.blocks, kv_size_.block_tokens);
  if (!pool) return pool.error();
  kv_ = *pool;
  return {};
}

Status Decoder::AddBuffers(const ModelConfig& config, int32_t max_positions, Backend& backend) {
  const auto rotary =
      backend.AddRotary(RotaryInverseFrequencies(config.rope, config.head_dim), max_positions);
  if (!rotary) return rotary.error();
  rotary_ = *rotary;

  struct Wanted {
    ActivationId* id;
    ActivationKind kind;
    int64_t cols;
  };
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.intermediate_size;
  const Wanted wanted[] = {
      {&buffers_.residual, ActivationKind::kResidual, hidden},
      {&buffers_.normed, ActivationKind::kOperand, hidden},
      {&buffers_.qkv, ActivationKind::kResidual, config.q_size() + 2 * config.kv_size()},
      {&buffers_.attended, ActivationKind::kOperand, config.q_size()},
      {&buffers_.gate_up, ActivationKind::kResidual, 2 * ffn},
      {&buffers_.inner, ActivationKind::kOperand, ffn},
      {&buffers_.last_residual, ActivationKind::kResidual, hidden},
      {&buffers_.last_attended, ActivationKind::kOperand, config.q_size()},
  };
  for (const Wanted& buffer : wanted) {
    const auto id = backend.AddActivation(buffer.kind, buffer.cols);
    if (!id) return id.error();
    *buffer.id = *id;
  }
  return {};
}

// After the last attention only rows whose logits are needed go on: in prefill, few of them.
void Decoder::Forward(Backend& backend, std::shared_ptr<const StepInput> step) const {
  const int32_t last = attention_.layers - 1;
  const StepInput& input = *step;  // the backend keeps it until Wait
  backend.BeginStep(std::move(step));
  backend.Embed(weights_.embedding, buffers_.residual);
  for (int32_t i = 0; i < last; ++i) {
    Attend(backend, i);
    FeedForward(backend, i, buffers_.attended, buffers_.residual);
  }
  Attend(backend, last);
  backend.GatherLogitRows(buffers_.attended, buffers_.last_attended);
  backend.GatherLogitRows(buffers_.residual, buffers_.last_residual);
  FeedForward(backend, last, buffers_.last_attended, buffers_.last_residual);
  backend.RmsNorm(buffers_.last_residual, weights_.norm, epsilon_, buffers_.normed);
  SampleAll(backend, buffers_.normed, weights_.head, input);
  backend.EndStep();
}

// residual -> attended
void Decoder::Attend(Backend& backend, int32_t index) const {
  const DecoderLayer& layer = weights_.layers[static_cast<size_t>(index)];
  backend.RmsNorm(buffers_.residual, layer.attention_norm, epsilon_, buffers_.normed);
  backend.MatMul(buffers_.normed, layer.qkv, layer.qkv_bias, MatMulMode::kOverwrite, buffers_.qkv);
  const LayerSpec& spec = specs_[static_cast<size_t>(index)];
  const QueryKeySpec heads = {.rotary = spec.rotary ? rotary_ : RotaryId::kNone,
                              .query_norm = layer.query_norm,
                              .key_norm = layer.key_norm,
                              .epsilon = epsilon_};
  backend.RotaryAndStore(kv_, index, heads, buffers_.qkv);
  backend.TreeAttention(kv_, index, {.window = spec.window}, buffers_.qkv, buffers_.attended);
}

// Adds the attention's and the feed-forward network's outputs to `residual`.
void Decoder::FeedForward(Backend& backend, int32_t index, ActivationId attended,
                          ActivationId residual) const {
  const DecoderLayer& layer = weights_.layers[static_cast<size_t>(index)];
  backend.MatMul(attended, layer.output, layer.output_bias, MatMulMode::kAccumulate, residual);
  backend.RmsNorm(residual, layer.ffn_norm, epsilon_, buffers_.normed);
  backend.MatMul(buffers_.normed, layer.gate_up, layer.gate_up_bias, MatMulMode::kOverwrite,
                 buffers_.gate_up);
  switch (specs_[static_cast<size_t>(index)].activation) {
    case Activation::kSilu:
      backend.SwiGlu(buffers_.gate_up, buffers_.inner);
      break;
  }
  backend.MatMul(buffers_.inner, layer.down, layer.down_bias, MatMulMode::kAccumulate, residual);
}

}  // namespace espalier
