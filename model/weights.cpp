#include "model/weights.h"

#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "model/json_text.h"

namespace espalier {

namespace {

struct Part {
  std::string name;
  int64_t rows = 0;
};

// Reads tensors and adds them; remembers the first error and the names asked for.
class Loader {
 public:
  Loader(TensorSource& source, Backend& backend) : source_(source), backend_(backend) {
    for (const std::string& name : source.Names()) listed_.insert(name);
  }

  MatrixId Matrix(const std::vector<Part>& parts, int64_t cols) {
    std::vector<SourceTensor> tensors;
    for (const Part& part : parts)
      Read(part.name + ".weight", std::vector<int64_t>{part.rows, cols}, tensors);
    return Add(tensors, MatrixId::kNone, [&](auto views) {
      Result<MatrixId> id = backend_.AddMatrix(views);
      if (id || id.error().field != "weights") return id;
      // A value that the type of weights cannot hold: say where.
      std::string names;
      for (const Part& part : parts) names += (names.empty() ? "" : ", ") + part.name + ".weight";
      return Result<MatrixId>(InvalidArgument("weights", "tensor " + names + ": " + id.error().message));
    });
  }

  MatrixId Table(const std::string& name, const LlamaConfig& config) {
    std::vector<SourceTensor> tensors;
    Read(name + ".weight", std::vector<int64_t>{config.vocab_size, config.hidden_size}, tensors);
    return Add(tensors, MatrixId::kNone, [&](auto views) { return backend_.AddTable(views); });
  }

  VectorId Bias(bool present, const std::vector<Part>& parts) {
    if (!present) return VectorId::kNone;
    std::vector<SourceTensor> tensors;
    for (const Part& part : parts) Read(part.name + ".bias", std::vector<int64_t>{part.rows}, tensors);
    return Add(tensors, VectorId::kNone, [&](auto views) { return backend_.AddVector(views); });
  }

  VectorId Norm(const std::string& name, int64_t size) {
    std::vector<SourceTensor> tensors;
    Read(name + ".weight", std::vector<int64_t>{size}, tensors);
    return Add(tensors, VectorId::kNone, [&](auto views) { return backend_.AddVector(views); });
  }

  // The name of the matrix of a tied model. A file may hold it under either name (safetensors stores shared
  // memory once), or twice: then transformers 5 ties only equal ones and transformers 4 takes the embedding,
  // so others are refused.
  std::string TiedName(const LlamaConfig& config) {
    const std::string names[] = {"model.embed_tokens", "lm_head"};
    const bool has_head = listed_.contains(names[1] + ".weight");
    const bool only_head = has_head && !listed_.contains(names[0] + ".weight");
    if (has_head && !only_head) {
      std::vector<SourceTensor> both;
      for (const std::string& name : names)
        Read(name + ".weight", {config.vocab_size, config.hidden_size}, both);
      if (status_.ok() && !SameBytes(both[0].tensor, both[1].tensor)) {
        status_ = InvalidArgument(
            source_.Where(names[1] + ".weight"),
            "tensor lm_head.weight: differs from model.embed_tokens.weight, though config.json "
            "says tie_word_embeddings");
      }
    }
    return names[only_head ? 1 : 0];
  }

  // Refuses tensors that the model would have to use but does not know.
  void CheckNothingLeft() {
    if (!status_.ok()) return;
    for (const std::string& name : listed_) {
      if (!name.ends_with(".rotary_emb.inv_freq") && !asked_.contains(name)) {
        status_ =
            InvalidArgument(source_.Where(name), "tensor " + Printable(name) +
                                                     ": is no part of the model that config.json describes");
        return;
      }
    }
  }

  const Status& status() const { return status_; }

 private:
  static bool SameBytes(const HostTensor& a, const HostTensor& b) {
    return a.dtype == b.dtype &&
           std::memcmp(a.data, b.data, static_cast<size_t>(a.rows * a.cols) * SizeOf(a.dtype)) == 0;
  }

  void Read(const std::string& name, const std::vector<int64_t>& shape, std::vector<SourceTensor>& out) {
    if (!status_.ok()) return;
    asked_.insert(name);
    auto tensor = source_.Get(name, shape);
    if (tensor) {
      out.push_back(std::move(*tensor));
    } else {
      status_ = tensor.error();
    }
  }

  template <typename Id, typename AddFunction>
  Id Add(const std::vector<SourceTensor>& tensors, Id none, AddFunction add) {
    if (!status_.ok()) return none;
    std::vector<HostTensor> views;
    for (const SourceTensor& tensor : tensors) views.push_back(tensor.tensor);
    auto id = add(std::span<const HostTensor>(views));
    if (id) return *id;
    status_ = id.error();
    return none;
  }

  TensorSource& source_;
  Backend& backend_;
  std::set<std::string> listed_;  // names that the source holds; empty where it makes any
  std::set<std::string> asked_;
  Status status_;
};

LlamaLayer AddLayer(const LlamaConfig& config, const std::string& prefix, Loader& loader) {
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const std::vector<Part> qkv = {{attention + "q_proj", config.q_size()},
                                 {attention + "k_proj", config.kv_size()},
                                 {attention + "v_proj", config.kv_size()}};
  const std::vector<Part> output = {{attention + "o_proj", config.hidden_size}};
  const std::vector<Part> gate_up = {{mlp + "gate_proj", config.intermediate_size},
                                     {mlp + "up_proj", config.intermediate_size}};
  const std::vector<Part> down = {{mlp + "down_proj", config.hidden_size}};
  LlamaLayer layer;
  layer.attention_norm = loader.Norm(prefix + "input_layernorm", config.hidden_size);
  layer.qkv = loader.Matrix(qkv, config.hidden_size);
  layer.qkv_bias = loader.Bias(config.attention_bias, qkv);
  layer.output = loader.Matrix(output, config.q_size());
  layer.output_bias = loader.Bias(config.attention_bias, output);
  layer.ffn_norm = loader.Norm(prefix + "post_attention_layernorm", config.hidden_size);
  layer.gate_up = loader.Matrix(gate_up, config.hidden_size);
  layer.gate_up_bias = loader.Bias(config.mlp_bias, gate_up);
  layer.down = loader.Matrix(down, config.intermediate_size);
  layer.down_bias = loader.Bias(config.mlp_bias, down);
  return layer;
}

}  // namespace

Result<LlamaWeights> AddLlamaWeights(const LlamaConfig& config, TensorSource& source, Backend& backend) {
  Loader loader(source, backend);
  LlamaWeights weights;
  const bool tied = config.tie_word_embeddings;
  const std::string embedding = tied ? loader.TiedName(config) : "model.embed_tokens";
  weights.embedding = loader.Table(embedding, config);
  for (int32_t i = 0; i < config.layers && loader.status().ok(); ++i) {
    weights.layers.push_back(AddLayer(config, "model.layers." + std::to_string(i) + ".", loader));
  }
  weights.norm = loader.Norm("model.norm", config.hidden_size);
  if (tied && backend.info().weights == WeightType::kDType) {
    weights.head = weights.embedding;
  } else {
    weights.head = loader.Matrix({{tied ? embedding : "lm_head", config.vocab_size}}, config.hidden_size);
  }
  loader.CheckNothingLeft();
  if (!loader.status().ok()) return loader.status().error();
  return weights;
}

}  // namespace espalier
