#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/tensor_source.h"
#include "model/weights.h"

namespace espalier {

// The paged KV pool of a model.
struct KvPoolSize {
  int32_t blocks = 0;  // 0: as many as the backend has memory left for
  int32_t block_tokens = 16;
};

// A decoder-only transformer on a backend: its weights, KV pool and activation buffers there, and the forward
// pass. Its layers do what ModelConfig::layers says, so that all families (model/families) share it.
class Decoder {
 public:
  // Adds all that the model needs to the backend. Paths have at most `max_positions` tokens.
  static Result<Decoder> Create(const ModelConfig& config, TensorSource& source, const KvPoolSize& kv,
                                int32_t max_positions, Backend& backend);

  // The whole of one step, from BeginStep to EndStep. `backend` is the one given to Create.
  void Forward(Backend& backend, std::shared_ptr<const StepInput> step) const;

  const AttentionShape& attention() const { return attention_; }
  const KvPoolSize& kv_size() const { return kv_size_; }
  const std::vector<std::string>& notes() const { return weights_.notes; }

 private:
  // [max_rows, ...]
  struct Activations {
    ActivationId residual;       // hidden
    ActivationId normed;         // hidden
    ActivationId qkv;            // (query_heads + 2 * kv_heads) * head_dim
    ActivationId attended;       // query_heads * head_dim
    ActivationId gate_up;        // 2 * intermediate
    ActivationId inner;          // intermediate
    ActivationId last_residual;  // as residual and attended, of the rows whose logits are needed
    ActivationId last_attended;
  };

  Decoder() = default;
  Status AddKv(const KvPoolSize& size, Backend& backend);
  Status AddBuffers(const ModelConfig& config, int32_t max_positions, Backend& backend);
  void Attend(Backend& backend, int32_t index) const;
  void FeedForward(Backend& backend, int32_t index, ActivationId attended, ActivationId residual) const;

  AttentionShape attention_;
  std::vector<LayerSpec> specs_;  // of each layer
  float epsilon_ = 0.0F;
  DecoderWeights weights_;
  RotaryId rotary_ = RotaryId::kNone;
  KvId kv_ = KvId::kNone;
  KvPoolSize kv_size_;
  Activations buffers_{};
};

// Heads of the model with K and V in `kv_dtype`, whose memory a backend with that multiple
// (BackendInfo::head_dim_multiple) takes.
AttentionShape AttentionOf(const ModelConfig& config, DType kv_dtype, int32_t head_dim_multiple = 1);

}  // namespace espalier
