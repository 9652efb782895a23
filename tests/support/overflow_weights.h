#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/hashed_weights.h"

namespace espalier::test {

// Weights from a hash, all finite, with one token at whose rows the model's arithmetic leaves fp32: the
// logits of such a row are not finite, while all others' are. Dimension 0 of the residual is that token's
// alone. Not for tied embeddings.
class OverflowWeights : public TensorSource {
 public:
  enum class At {
    kHead,  // one logit is infinite
    kKeys,  // its keys are, so its attention and whatever sees it is NaN
  };
  OverflowWeights(int32_t token, At at, uint64_t seed)
      : token_(token), at_(at), inner_(MakeHashedWeights(seed, DType::kFloat32)) {}

  Result<SourceTensor> Get(const std::string& name, std::span<const int64_t> shape, DType kept) override {
    Result<SourceTensor> made = inner_->Get(name, shape, kept);
    const HostTensor& tensor = made->tensor;
    const auto* first = static_cast<const float*>(tensor.data);
    auto values = std::make_shared<std::vector<float>>(first, first + tensor.rows * tensor.cols);
    const auto is = [&](const char* end) { return name.ends_with(end); };
    const auto element = [&](int64_t row, int64_t col) -> float& {
      return (*values)[static_cast<size_t>(row * tensor.cols + col)];
    };
    for (int64_t row = 0; row < tensor.rows; ++row) {
      if (is("embed_tokens.weight")) element(row, 0) = row == token_ ? 1e18F : 0.0F;
      if (is("lm_head.weight")) element(row, 0) = at_ == At::kHead && row == 0 ? 1e38F : 0.0F;
      if (is("k_proj.weight")) element(row, 0) = at_ == At::kKeys ? 1e38F : 0.0F;
    }
    for (int64_t col = 0; col < tensor.cols && (is("o_proj.weight") || is("down_proj.weight")); ++col)
      element(0, col) = 0.0F;
    return SourceTensor{
        {.data = values->data(), .dtype = DType::kFloat32, .rows = tensor.rows, .cols = tensor.cols}, values};
  }
  std::vector<std::string> Names() const override { return {}; }
  std::string Where(const std::string&) const override { return "weights that overflow"; }
  Result<bool> IsZero(const std::string& name) override { return inner_->IsZero(name); }
  Result<bool> AreEqual(const std::string& a, const std::string& b) override {
    return inner_->AreEqual(a, b);
  }

 private:
  int32_t token_;
  At at_;
  std::unique_ptr<TensorSource> inner_;
};

}  // namespace espalier::test
