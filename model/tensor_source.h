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

  // The tensor of that name, which must have exactly this shape: {rows, cols} or, for a vector, {cols}. Its
  // values are finite, and stay finite in `kept`, the type in which they will be held; others are an error.
  virtual Result<SourceTensor> Get(const std::string& name, std::span<const int64_t> shape, DType kept) = 0;

  // Names of all tensors, ascending; empty for a source that makes any tensor.
  virtual std::vector<std::string> Names() const = 0;

  // Where `name` is, for errors: a file.
  virtual std::string Where(const std::string& name) const = 0;

  // The next two take names of Names(). Whether a tensor holds zeros only, or nothing.
  virtual Result<bool> IsZero(const std::string& name) = 0;
  // Whether two tensors have the same type, shape and bytes.
  virtual Result<bool> AreEqual(const std::string& a, const std::string& b) = 0;

  // To be called when all tensors have been taken: an error where a file has changed meanwhile.
  virtual Status CheckUnchanged() const { return {}; }
};

// The safetensors of a Hugging Face folder: model.safetensors, or else the shards that
// model.safetensors.index.json names. As in transformers all tensors of a shard belong to the model, whether
// the index lists them or not, and what the index lists but no shard holds is missing only if it is asked
// for. Tensors are read when they are asked for, into memory of their own. Errors (kInvalidArgument, `field`
// is the file): missing, truncated or inconsistent files, files that change while they are read.
Result<std::unique_ptr<TensorSource>> OpenCheckpoint(const std::string& folder);

}  // namespace espalier
