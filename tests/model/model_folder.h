#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"

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

// The bytes of a safetensors file, and those of one with a header of one's own.
std::string Safetensors(const std::map<std::string, TensorBytes>& tensors);
std::string SafetensorsWithHeader(const std::string& header, const std::string& data);

// A model small enough to be written hundreds of times: its config.json and its tensors, with hashed weights.
nlohmann::json TinyConfig();
std::map<std::string, TensorBytes> HashedTensors(const nlohmann::json& config, uint64_t seed, DType dtype);

// config.json and model.safetensors, or `shards` files with an index.
void WriteModel(const TempFolder& folder, const nlohmann::json& config,
                const std::map<std::string, TensorBytes>& tensors, size_t shards = 1);

}  // namespace espalier::test
