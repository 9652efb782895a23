#include "model/llama.h"

#include <utility>

#include "model/rope.h"

namespace espalier {

AttentionShape AttentionOf(const LlamaConfig& config, DType kv_dtype) {
  return {.layers = config.layers,
          .query_heads = config.query_heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .kv_dtype = kv_dtype};
}

Result<Llama> Llama::Create(const LlamaConfig& config, TensorSource& source, const KvPoolSize& kv,
                            int32_t max_positions, Backend& backend) {
  Llama llama;
  llama.attention_ = AttentionOf(config, backend.info().dtype);
  llama.epsilon_ = config.rms_norm_epsilon;
  auto weights = AddLlamaWeights(config, source, backend);
  if (!weights) return weights.error();
  llama.weights_ = std::move(*weights);
  if (auto status = llama.AddBuffers(config, kv, max_positions, backend); !status.ok()) return status.error();
  return llama;
}

Status Llama::AddBuffers(const LlamaConfig& config, const KvPoolSize& kv, int32_t max_positions,
                         Backend& backend) {
  const auto rotary =
      backend.AddRotary(RotaryInverseFrequencies(config.rope, config.head_dim), 1.0F, max_positions);
  if (!rotary) return rotary.error();
  rotary_ = *rotary;
  const auto pool = backend.AddKv(attention_, kv.blocks, kv.block_tokens);
  if (!pool) return pool.error();
  kv_ = *pool;

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
      {&buffers_.last, ActivationKind::kResidual, hidden},
      {&buffers_.last_normed, ActivationKind::kOperand, hidden},
  };
  for (const Wanted& buffer : wanted) {
    const auto id = backend.AddActivation(buffer.kind, buffer.cols);
    if (!id) return id.error();
    *buffer.id = *id;
  }
  return {};
}

void Llama::Forward(Backend& backend, std::shared_ptr<const StepInput> step) const {
  backend.BeginStep(std::move(step));
  backend.Embed(weights_.embedding, buffers_.residual);
  for (int32_t i = 0; i < attention_.layers; ++i) ForwardLayer(backend, i);
  backend.GatherLogitRows(buffers_.residual, buffers_.last);
  backend.RmsNorm(buffers_.last, weights_.norm, epsilon_, buffers_.last_normed);
  backend.Sample(buffers_.last_normed, weights_.head);
  backend.EndStep();
}

void Llama::ForwardLayer(Backend& backend, int32_t index) const {
  const LlamaLayer& layer = weights_.layers[static_cast<size_t>(index)];
  backend.RmsNorm(buffers_.residual, layer.attention_norm, epsilon_, buffers_.normed);
  backend.MatMul(buffers_.normed, layer.qkv, layer.qkv_bias, MatMulMode::kOverwrite, buffers_.qkv);
  backend.RotaryAndStore(kv_, index, rotary_, buffers_.qkv);
  backend.TreeAttention(kv_, index, buffers_.qkv, buffers_.attended);
  backend.MatMul(buffers_.attended, layer.output, layer.output_bias, MatMulMode::kAccumulate,
                 buffers_.residual);
  backend.RmsNorm(buffers_.residual, layer.ffn_norm, epsilon_, buffers_.normed);
  backend.MatMul(buffers_.normed, layer.gate_up, layer.gate_up_bias, MatMulMode::kOverwrite,
                 buffers_.gate_up);
  backend.SwiGlu(buffers_.gate_up, buffers_.inner);
  backend.MatMul(buffers_.inner, layer.down, layer.down_bias, MatMulMode::kAccumulate, buffers_.residual);
}

}  // namespace espalier
