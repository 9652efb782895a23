#include "model/hashed_weights.h"

#include <array>
#include <string>

namespace espalier {

namespace {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;

constexpr uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// The 128 values that an element of a tensor can have, by the hash's upper seven bits.
std::array<float, 128> Levels(std::string_view name, std::span<const int64_t> shape) {
  std::array<float, 128> levels{};
  const bool norm = name.find("norm") != std::string_view::npos;
  const bool bias = name.ends_with(".bias");
  const bool head = name == "lm_head.weight";
  float step = 1.0F / 512.0F;
  if (!bias) {
    step = head ? 1.0F / 16.0F : 1.0F / 64.0F;
    for (int64_t power = 1; power < shape.back(); power *= 4) step *= 0.5F;
  }
  for (size_t i = 0; i < levels.size(); ++i) {
    levels[i] =
        norm ? 0.75F + static_cast<float>(i / 2) / 128.0F : (2.0F * static_cast<float>(i) - 127.0F) * step;
  }
  return levels;
}

template <typename T, typename Convert>
std::shared_ptr<const void> Fill(uint64_t key, size_t count, const std::array<float, 128>& levels,
                                 Convert convert) {
  std::array<T, 128> table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = convert(levels[i]);
  std::shared_ptr<T[]> data(new T[count]);
  for (size_t i = 0; i < count; ++i) data[i] = table[Mix(key + (i + 1) * kGolden) >> 57];
  return data;
}

class HashedWeights : public TensorSource {
 public:
  HashedWeights(uint64_t seed, DType dtype) : seed_(seed), dtype_(dtype) {}

  Result<SourceTensor> Get(const std::string& name, std::span<const int64_t> shape, DType) override {
    const int64_t rows = shape.size() == 1 ? 1 : shape.front();
    const int64_t cols = shape.back();
    const auto count = static_cast<size_t>(rows * cols);
    const uint64_t key = HashedTensorKey(name, seed_);
    const auto levels = Levels(name, shape);
    std::shared_ptr<const void> data;
    switch (dtype_) {
      case DType::kFloat32:
        data = Fill<float>(key, count, levels, [](float value) { return value; });
        break;
      case DType::kBFloat16:
        data = Fill<bf16_t>(key, count, levels, ToBFloat16);
        break;
      case DType::kFloat16:
        data = Fill<uint16_t>(key, count, levels, ToHalf);
        break;
    }
    return SourceTensor{{.data = data.get(), .dtype = dtype_, .rows = rows, .cols = cols}, data};
  }

  std::vector<std::string> Names() const override { return {}; }
  std::string Where(const std::string&) const override { return "hashed weights"; }
  Result<bool> IsZero(const std::string&) override { return false; }
  Result<bool> AreEqual(const std::string& a, const std::string& b) override { return a == b; }

 private:
  uint64_t seed_;
  DType dtype_;
};

}  // namespace

uint64_t HashedTensorKey(std::string_view name, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash + seed * kGolden;
}

std::unique_ptr<TensorSource> MakeHashedWeights(uint64_t seed, DType dtype) {
  return std::make_unique<HashedWeights>(seed, dtype);
}

}  // namespace espalier
