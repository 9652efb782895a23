#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/decoder.h"
#include "model/model_runner.h"
#include "model/tensor_source.h"

namespace espalier {

inline constexpr int64_t kHostKvCacheBytes = int64_t{1} << 30;

struct RunnerOptions {
  BackendOptions backend;
  int32_t block_tokens = 16;  // divides kSegmentTokens
  int32_t kv_blocks = 0;      // 0: as many as kv_cache_bytes holds
  // 0: what the device has left once the model is there; kHostKvCacheBytes where the backend does not know.
  int64_t kv_cache_bytes = kHostKvCacheBytes;
  int32_t max_positions = 0;  // 0: as the model allows. Never more than that, nor than the pool holds.
  // Tests put another in its place.
  std::function<Result<std::unique_ptr<Backend>>(const BackendOptions&)> make_backend = CreateBackend;
};

// Memory that the weights of a model take on a backend.
int64_t WeightMemoryBytes(const ModelConfig& config, DType dtype, WeightType weights);

// A model from a Hugging Face folder, its weights copied to the backend; `folder` is not used afterwards.
// Errors name the file, or the option by its name here (block_tokens, kv_cache_bytes, ...). A config with
// rope type dynamic needs max_positions.
Result<std::unique_ptr<ModelRunner>> LoadModel(const std::string& folder, const RunnerOptions& options);

// A decoder on the backend that holds its weights.
std::unique_ptr<ModelRunner> MakeRunner(ModelInfo info, std::unique_ptr<Backend> backend, Decoder decoder);

// A model from a config and tensors from anywhere.
Result<std::unique_ptr<ModelRunner>> MakeModel(const ModelConfig& config, TensorSource& source,
                                               std::string name, const RunnerOptions& options);

// A model with weights from a hash (hashed_weights.h) in the backend's own type: for benchmarks and tests.
Result<std::unique_ptr<ModelRunner>> RandomModel(const ModelConfig& config, uint64_t seed,
                                                 const RunnerOptions& options);

}  // namespace espalier
