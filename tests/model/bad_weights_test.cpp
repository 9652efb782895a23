// Values that no weight may have, and files that change while they are read.
#include <chrono>
#include <cstring>

#include "model/backend_runner.h"
#include "model/tensor_source.h"
#include "tests/model/model_folder.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier::test {
namespace {

template <typename T>
void SetElement(TensorBytes& tensor, size_t index, T bits) {
  std::memcpy(tensor.bytes.data() + index * sizeof(T), &bits, sizeof(T));
}

TEST_CASE("weights that are not finite are refused by tensor, whatever their type") {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const auto refused = [&](const std::string& tensor, DType dtype, auto bits, size_t index,
                           const std::string& message) {
    const TempFolder folder;
    Tensors tensors = HashedTensors(TinyConfig(), 1, dtype);
    SetElement(tensors.at(tensor), index, bits);
    WriteModel(folder, TinyConfig(), tensors);
    CheckRefused(folder, "model.safetensors", "tensor " + tensor + ": " + message);
  };
  const std::string one = "1 of 1536 values is NaN or infinite; the first at element ";
  for (const uint32_t bits : {0x7fc00000U, 0xffc00001U, 0x7f800000U, 0xff800000U, 0x7f800001U}) {
    refused(name, DType::kFloat32, bits, 1535, one + "1535");
  }
  for (const uint16_t bits : {uint16_t{0x7f80}, uint16_t{0xff80}, uint16_t{0x7fc0}}) {
    refused(name, DType::kBFloat16, bits, 0, one + "0");
  }
  for (const uint16_t bits : {uint16_t{0x7c00}, uint16_t{0xfc00}, uint16_t{0x7e01}}) {
    refused(name, DType::kFloat16, bits, 700, one + "700");
  }
  refused("model.norm.weight", DType::kFloat32, 0x7fc00000U, 3,
          "1 of 32 values is NaN or infinite; the first at element 3");
  refused("model.layers.0.self_attn.v_proj.bias", DType::kFloat32, 0xff800000U, 5,
          "1 of 64 values is NaN or infinite");
  refused("model.embed_tokens.weight", DType::kFloat32, 0x7f800000U, 9,
          "1 of 1280 values is NaN or infinite");
}

TEST_CASE("the first of many values that are not finite is found in a tensor that several threads read") {
  const std::string name = "model.embed_tokens.weight";
  constexpr int64_t kRows = 1 << 17;
  const TempFolder folder;
  TensorBytes large = {"F32", {kRows, 64}, std::string(size_t{kRows} * 64 * 4, '\1')};
  Tensors tensors = {{name, large}};
  const auto get = [&] {
    WriteModel(folder, TinyConfig(), tensors);
    auto source = OpenCheckpoint(folder.path());
    REQUIRE(source.ok());
    const std::vector<int64_t> shape = {kRows, 64};
    return (*source)->Get(name, shape, DType::kFloat32);
  };
  const auto read = get();
  REQUIRE(read.ok());
  CHECK(std::memcmp(read->tensor.data, large.bytes.data(), large.bytes.size()) == 0);
  for (const size_t index : {size_t{8000000}, size_t{300001}, size_t{5000000}}) {
    SetElement(tensors.at(name), index, 0x7fc00000U);
  }
  const auto refused = get();
  REQUIRE(!refused.ok());
  CHECK(refused.error().message ==
        "tensor " + name + ": 3 of 8388608 values are NaN or infinite; the first at element 300001");
}

TEST_CASE("weights that are too large for the type in which they are kept are refused") {
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const TempFolder folder;
  Tensors tensors = TinyTensors();
  SetElement(tensors.at(name), 7, 0x7f7f8000U);  // rounds to infinity in bfloat16; one less does not
  SetElement(tensors.at(name), 9, 0xff7fffffU);
  WriteModel(folder, TinyConfig(), tensors);
  RequireLoads(folder);  // ref keeps fp32
  RunnerOptions options = RefOptions();
  options.backend.name = "cpu";
  options.backend.dtype = DType::kBFloat16;
  const auto runner = LoadModel(folder.path(), options);
  REQUIRE(!runner.ok());
  if (runner.error().code == ErrorCode::kUnimplemented) return SkipTest(runner.error().ToString());
  CHECK(runner.error().ToString() ==
        folder.File("model.safetensors").string() + ": tensor " + name +
            ": 2 of 1536 values are too large for bfloat16; the first at element 7");
  SetElement(tensors.at(name), 7, 0x7f7f7fffU);
  SetElement(tensors.at(name), 9, 0xff7f7fffU);
  WriteModel(folder, TinyConfig(), tensors);
  CHECK(LoadModel(folder.path(), options).ok());
}

TEST_CASE("a file that is cut short or written to while it is read gives an error, never a signal") {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const std::vector<int64_t> shape = {48, 32};
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors").string();
  WriteModel(folder, TinyConfig(), TinyTensors());
  auto source = OpenCheckpoint(folder.path());
  REQUIRE(source.ok());
  REQUIRE((*source)->Get(name, shape, DType::kFloat32).ok());
  CHECK((*source)->CheckUnchanged().ok());
  std::filesystem::resize_file(path, 9000);
  const auto cut = (*source)->Get(name, shape, DType::kFloat32);
  REQUIRE(!cut.ok());
  CHECK(cut.error().field == path);
  CHECK(cut.error().message.find("was cut short while it was read: it had ") == 0);
  const auto changed = (*source)->CheckUnchanged();
  REQUIRE(!changed.ok());
  CHECK(changed.error().message.find("changed while it was read: it had ") == 0);

  WriteModel(folder, TinyConfig(), TinyTensors());
  source = OpenCheckpoint(folder.path());
  REQUIRE(source.ok());
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::hours(1));
  const auto written = (*source)->CheckUnchanged();
  REQUIRE(!written.ok());
  CHECK(written.error().ToString() == path + ": was written to while it was read");
}

}  // namespace
}  // namespace espalier::test
