#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/tensor_source.h"

namespace espalier {

// A transformer layer on the device. Biases and norms of heads are kNone where the layer has none.
struct DecoderLayer {
  VectorId attention_norm = VectorId::kNone;  // [hidden]
  MatrixId qkv = MatrixId::kNone;             // [(query_heads + 2 * kv_heads) * head_dim, hidden]: q, k, v
  VectorId qkv_bias = VectorId::kNone;
  VectorId query_norm = VectorId::kNone;  // [head_dim], of each head
  VectorId key_norm = VectorId::kNone;
  MatrixId output = MatrixId::kNone;  // [hidden, query_heads * head_dim]
  VectorId output_bias = VectorId::kNone;
  VectorId ffn_norm = VectorId::kNone;  // [hidden]
  MatrixId gate_up = MatrixId::kNone;   // [2 * intermediate, hidden]: gate, up
  VectorId gate_up_bias = VectorId::kNone;
  MatrixId down = MatrixId::kNone;  // [hidden, intermediate]
  VectorId down_bias = VectorId::kNone;
};

struct DecoderWeights {
  MatrixId embedding = MatrixId::kNone;  // [vocab, hidden]
  std::vector<DecoderLayer> layers;
  VectorId norm = VectorId::kNone;  // [hidden]
  // [vocab, hidden]; where tied the embedding itself, unless the backend's matrices have another type: rows
  // are looked up exactly as the file has them.
  MatrixId head = MatrixId::kNone;
  std::vector<std::string> notes;  // what was passed over or stood in for, a line each, for a log
};

// Hands the tensors of a ...ForCausalLM, or of a ...Model (names without "model."), by their Hugging Face
// names, which all families share, to the backend. Biases that no layer has are zeros, and tensors that
// change nothing are passed over, as in transformers. Errors: a tensor that is missing, has another shape or
// values that are not finite, or belongs to a part of the model that config.json describes otherwise; a tied
// model with two different vocabulary matrices; files that changed meanwhile; those of the backend.
Result<DecoderWeights> AddWeights(const ModelConfig& config, TensorSource& source, Backend& backend);

}  // namespace espalier
