#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "model/backend_runner.h"

namespace espalier::test {

// A folder of its own below the system's temporary folder, removed at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  std::filesystem::path File(const std::string& name) const { return path_ / name; }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

void WriteFile(const std::filesystem::path& path, const std::string& bytes);

struct TensorBytes {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
using Tensors = std::map<std::string, TensorBytes>;

// The bytes of a safetensors file, and those of one with a header of one's own.
std::string Safetensors(const Tensors& tensors);
std::string SafetensorsWithHeader(const std::string& header, const std::string& data);

// A model small enough to be written hundreds of times: its config.json and its tensors, with hashed weights.
nlohmann::json TinyConfig();
Tensors HashedTensors(const nlohmann::json& config, uint64_t seed, DType dtype);

// config.json and model.safetensors, or `shards` files with an index.
void WriteModel(const TempFolder& folder, const nlohmann::json& config, const Tensors& tensors,
                size_t shards = 1);

// Of TinyConfig, in fp32.
Tensors TinyTensors();

// The ref backend in fp32 with a small pool.
RunnerOptions RefOptions();
void RequireLoads(const TempFolder& folder);
// Checks that the folder is refused, by an error of that file ("": the folder) whose message begins with
// `message`.
void CheckRefused(const TempFolder& folder, const std::string& file, const std::string& message);

}  // namespace espalier::test
