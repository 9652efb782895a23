#include "model/tensor_loader.h"

#include <utility>

#include "model/json_text.h"

namespace espalier {

TensorLoader::TensorLoader(TensorSource& source, Backend& backend) : source_(source), backend_(backend) {
  for (const std::string& name : source.Names()) listed_.insert(name);
}

MatrixId TensorLoader::Matrix(const std::vector<TensorPart>& parts, int64_t cols) {
  // int8 is made from fp32.
  const BackendInfo& info = backend_.info();
  const DType kept = info.weights == WeightType::kInt8 ? DType::kFloat32 : info.dtype;
  std::vector<SourceTensor> tensors;
  for (const TensorPart& part : parts) Read(part.name + ".weight", {part.rows, cols}, kept, tensors);
  return Add<MatrixId>(tensors, [&](auto views) {
    Result<MatrixId> id = backend_.AddMatrix(views);
    if (id || id.error().field != "weights") return id;
    // A value that the type of weights cannot hold: say where.
    std::string names;
    for (const TensorPart& part : parts) names += (names.empty() ? "" : ", ") + part.name + ".weight";
    return Result<MatrixId>(InvalidArgument("weights", "tensor " + names + ": " + id.error().message));
  });
}

MatrixId TensorLoader::Table(const std::string& name, int64_t rows, int64_t cols) {
  std::vector<SourceTensor> tensors;
  Read(name + ".weight", {rows, cols}, backend_.info().dtype, tensors);
  return Add<MatrixId>(tensors, [&](auto views) { return backend_.AddTable(views); });
}

VectorId TensorLoader::Norm(const std::string& name, int64_t size) {
  std::vector<SourceTensor> tensors;
  Read(name + ".weight", {size}, DType::kFloat32, tensors);
  return Add<VectorId>(tensors, [&](auto views) { return backend_.AddVector(views); });
}

VectorId TensorLoader::Bias(const std::vector<TensorPart>& parts) {
  std::vector<SourceTensor> tensors;
  bool any = false;
  for (const TensorPart& part : parts) {
    if (!lacking_.contains(part.name + ".bias")) {
      any = true;
      Read(part.name + ".bias", {part.rows}, DType::kFloat32, tensors);
      continue;
    }
    const auto zeros = std::make_shared<const std::vector<float>>(static_cast<size_t>(part.rows), 0.0F);
    tensors.push_back(
        {{.data = zeros->data(), .dtype = DType::kFloat32, .rows = 1, .cols = part.rows}, zeros});
  }
  if (!any) return VectorId::kNone;
  return Add<VectorId>(tensors, [&](auto views) { return backend_.AddVector(views); });
}

std::vector<std::string> TensorLoader::Left() const {
  std::vector<std::string> left;
  for (const std::string& name : listed_) {
    if (!asked_.contains(name)) left.push_back(name);
  }
  return left;
}

void TensorLoader::Fail(Error error) {
  if (status_.ok()) status_ = std::move(error);
}

void TensorLoader::Fail(const std::string& tensor, const std::string& why) {
  Fail(InvalidArgument(source_.Where(tensor), "tensor " + Printable(tensor) + ": " + why));
}

void TensorLoader::Read(const std::string& name, const std::vector<int64_t>& shape, DType kept,
                        std::vector<SourceTensor>& out) {
  if (!status_.ok()) return;
  asked_.insert(name);
  auto tensor = source_.Get(name, shape, kept);
  if (tensor) {
    out.push_back(std::move(*tensor));
  } else {
    status_ = tensor.error();
  }
}

template <typename Id>
Id TensorLoader::Add(const std::vector<SourceTensor>& tensors,
                     const std::function<Result<Id>(std::span<const HostTensor>)>& add) {
  if (!status_.ok()) return Id::kNone;
  std::vector<HostTensor> views;
  views.reserve(tensors.size());
  for (const SourceTensor& tensor : tensors) views.push_back(tensor.tensor);
  auto id = add(views);
  if (id) return *id;
  status_ = id.error();
  return Id::kNone;
}

}  // namespace espalier
