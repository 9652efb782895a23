#include "model/backend_runner.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "kernels/base/exhaustion.h"
#include "kernels/plan/attention_plan.h"
#include "model/decoder.h"
#include "model/folder_hints.h"
#include "model/hashed_weights.h"

namespace espalier {

namespace {

class BackendRunner : public ModelRunner {
 public:
  BackendRunner(ModelInfo info, std::unique_ptr<Backend> backend, Decoder decoder)
      : info_(std::move(info)), backend_(std::move(backend)), decoder_(std::move(decoder)) {}

  const ModelInfo& info() const override { return info_; }
  void Issue(std::shared_ptr<const StepInput> step) override { decoder_.Forward(*backend_, std::move(step)); }
  Result<StepResult> Wait() override { return backend_->Wait(); }

 private:
  ModelInfo info_;
  std::unique_ptr<Backend> backend_;
  Decoder decoder_;
};

Result<KvPoolSize> SizeKvPool(const RunnerOptions& options, const AttentionShape& attention,
                              Backend& backend) {
  const int32_t block_tokens = options.block_tokens;
  if (block_tokens < 1 || kSegmentTokens % block_tokens != 0) {
    return InvalidArgument("block_tokens", "must divide " + std::to_string(kSegmentTokens));
  }
  if (options.kv_blocks < 0) return InvalidArgument("kv_blocks", "must not be negative");
  const int64_t max = std::numeric_limits<int32_t>::max() / block_tokens;
  int64_t blocks = options.kv_blocks;
  int64_t bytes = options.kv_cache_bytes;
  if (blocks == 0 && bytes == 0) {
    if (backend.FreeKvBytes() > 0) return KvPoolSize{0, block_tokens};
    bytes = kHostKvCacheBytes;
  }
  if (blocks == 0) {
    const int64_t block_bytes = attention.KvBytesPerTokenLayer() * attention.layers * block_tokens;
    blocks = std::min(bytes / block_bytes, max);
    if (blocks < 1) {
      return InvalidArgument("kv_cache_bytes",
                             "must be at least " + std::to_string(block_bytes) + ", one block");
    }
  }
  if (blocks > max) return InvalidArgument("kv_blocks", "must be at most " + std::to_string(max));
  return KvPoolSize{static_cast<int32_t>(blocks), block_tokens};
}

// Bytes of the matrices that every step reads whole; an untied embedding is only gathered from.
int64_t ReadBytes(const ModelConfig& config, DType dtype, WeightType weights) {
  const int64_t vocabulary = int64_t{config.vocab_size} * config.hidden_size;
  const int64_t read = config.Parameters() - (config.tie_word_embeddings ? 0 : vocabulary);
  if (weights == WeightType::kDType) return read * static_cast<int64_t>(SizeOf(dtype));
  const int64_t outputs =
      config.q_size() + 2 * config.kv_size() + 2 * (config.hidden_size + config.intermediate_size);
  return read + (config.layer_count() * outputs + config.vocab_size) * static_cast<int64_t>(sizeof(float));
}

// Keys in the cache would have to turn once a text grows beyond the length that the model was trained for.
Status CheckDynamicRope(const ModelConfig& config, const std::string& folder, const RunnerOptions& options) {
  const int32_t limit = config.rope.original_max_positions;
  if (config.rope.type != RopeType::kDynamic) return {};
  if (options.max_positions > 0 && options.max_positions <= limit) return {};
  return InvalidArgument((std::filesystem::path(folder) / kConfigFile).string(),
                         "rope type dynamic is served only within the " + std::to_string(limit) +
                             " positions in which it equals default: set max_positions to " +
                             std::to_string(limit) + " or less");
}

}  // namespace

int64_t WeightMemoryBytes(const ModelConfig& config, DType dtype, WeightType weights) {
  const int64_t vocabulary = int64_t{config.vocab_size} * config.hidden_size;
  const bool table = !config.tie_word_embeddings || weights == WeightType::kInt8;
  return ReadBytes(config, dtype, weights) + (table ? vocabulary * static_cast<int64_t>(SizeOf(dtype)) : 0);
}

std::unique_ptr<ModelRunner> MakeRunner(ModelInfo info, std::unique_ptr<Backend> backend, Decoder decoder) {
  return std::make_unique<BackendRunner>(std::move(info), std::move(backend), std::move(decoder));
}

Result<std::unique_ptr<ModelRunner>> MakeModel(const ModelConfig& config, TensorSource& source,
                                               std::string name, const RunnerOptions& options) {
  auto backend = options.make_backend(options.backend);
  if (!backend) return backend.error();
  const BackendInfo& device = (*backend)->info();
  const AttentionShape attention = AttentionOf(config, device.dtype, device.head_dim_multiple);
  const auto pool = SizeKvPool(options, attention, **backend);
  if (!pool) return pool.error();
  if (options.max_positions < 0) return InvalidArgument("max_positions", "must not be negative");
  int32_t max_positions = config.max_positions;
  if (pool->blocks > 0) max_positions = std::min(max_positions, pool->blocks * pool->block_tokens);
  if (options.max_positions > 0) max_positions = std::min(max_positions, options.max_positions);

  auto decoder = Decoder::Create(config, source, *pool, max_positions, **backend);
  if (!decoder) return decoder.error();
  const KvPoolSize& kv = decoder->kv_size();
  ModelInfo info;
  info.name = std::move(name);
  info.vocab_size = config.vocab_size;
  info.max_positions = std::min(max_positions, kv.blocks * kv.block_tokens);
  info.kv_blocks = kv.blocks;
  info.block_tokens = kv.block_tokens;
  info.eos_token_ids = config.eos_token_ids;
  info.bos_token_id = config.bos_token_id;
  info.parameters = config.Parameters();
  info.weight_bytes = ReadBytes(config, device.dtype, device.weights);
  info.attention = attention;
  info.backend = device;
  info.notes = config.notes;
  info.notes.insert(info.notes.end(), decoder->notes().begin(), decoder->notes().end());
  return MakeRunner(std::move(info), std::move(*backend), std::move(*decoder));
}

Result<std::unique_ptr<ModelRunner>> LoadModel(const std::string& folder, const RunnerOptions& options) {
  using Loaded = Result<std::unique_ptr<ModelRunner>>;
  return OrExhausted("model", "loading the model", [&]() -> Loaded {
    if (auto status = CheckModelFolder(folder); !status.ok()) return status.error();
    const auto config = LoadModelConfig(folder);
    if (!config) return config.error();
    if (auto status = CheckDynamicRope(*config, folder, options); !status.ok()) return status.error();
    auto source = OpenCheckpoint(folder);
    if (!source) return source.error();
    std::error_code error;
    const auto path = std::filesystem::weakly_canonical(folder, error);
    return MakeModel(*config, **source, path.filename().string(), options);
  });
}

Result<std::unique_ptr<ModelRunner>> RandomModel(const ModelConfig& config, uint64_t seed,
                                                 const RunnerOptions& options) {
  const DType dtype = options.backend.name == "ref" ? DType::kFloat32 : options.backend.dtype;
  const auto source = MakeHashedWeights(seed, dtype);
  return MakeModel(config, *source, "random", options);
}

}  // namespace espalier
