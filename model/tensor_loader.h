#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "model/tensor_source.h"

namespace espalier {

// A matrix, or the bias that belongs to it, within a stack: without ".weight" and ".bias".
struct TensorPart {
  std::string name;
  int64_t rows = 0;
};

// Reads tensors of a source and adds them to a backend. Remembers the first error, after which nothing is
// read any more, and the names asked for.
class TensorLoader {
 public:
  TensorLoader(TensorSource& source, Backend& backend);

  // Matrices of `cols` columns, stacked.
  MatrixId Matrix(const std::vector<TensorPart>& parts, int64_t cols);
  // A matrix for look-ups.
  MatrixId Table(const std::string& name, int64_t rows, int64_t cols);
  VectorId Norm(const std::string& name, int64_t size);
  // Biases of a stack; zeros for those that LacksBias, kNone where all parts lack theirs.
  VectorId Bias(const std::vector<TensorPart>& parts);

  // Says that the source holds no bias of that name and that zeros are to stand for it.
  void LackBias(const std::string& name) { lacking_.insert(name); }

  bool Holds(const std::string& tensor) const { return listed_.contains(tensor); }
  // False for a source that makes any tensor.
  bool HasNames() const { return !listed_.empty(); }
  // Names that the source holds and nothing has asked for.
  std::vector<std::string> Left() const;
  void Ask(const std::string& tensor) { asked_.insert(tensor); }

  TensorSource& source() { return source_; }
  void Fail(Error error);
  void Fail(const std::string& tensor, const std::string& why);
  const Status& status() const { return status_; }

 private:
  void Read(const std::string& name, const std::vector<int64_t>& shape, DType kept,
            std::vector<SourceTensor>& out);
  template <typename Id>
  Id Add(const std::vector<SourceTensor>& tensors,
         const std::function<Result<Id>(std::span<const HostTensor>)>& add);

  TensorSource& source_;
  Backend& backend_;
  std::set<std::string> listed_;  // names that the source holds; empty where it makes any
  std::set<std::string> asked_;
  std::set<std::string> lacking_;
  Status status_;
};

}  // namespace espalier
