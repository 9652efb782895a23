#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/result.h"

namespace espalier {

// A tensor and what keeps its bytes alive.
struct SourceTensor {
  HostTensor tensor;
  std::shared_ptr<const void> owner;
};

// Where the weights of a model come from.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // The tensor of that name, which must have exactly this shape: {rows, cols} or, for a vector, {cols}.
  virtual Result<SourceTensor> Get(const std::string& name, std::span<const int64_t> shape) = 0;

  // Names of all tensors, ascending; empty for a source that makes any tensor.
  virtual std::vector<std::string> Names() const = 0;

  // Where `name` is, for errors: a file.
  virtual std::string Where(const std::string& name) const = 0;
};

// The safetensors of a Hugging Face folder: model.safetensors, or else the shards that
// model.safetensors.index.json lists. Files are mapped, and unmapped when the source and all its tensors are
// gone. Errors (kInvalidArgument, `field` is the file): missing, truncated or inconsistent files, a shard
// that lacks a tensor of the index.
Result<std::unique_ptr<TensorSource>> OpenCheckpoint(const std::string& folder);

}  // namespace espalier
