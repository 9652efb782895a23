#include <filesystem>
#include <map>
#include <utility>

#include "model/json_text.h"
#include "model/safetensors.h"
#include "model/tensor_source.h"

namespace espalier {

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

std::string ShapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

class Checkpoint : public TensorSource {
 public:
  explicit Checkpoint(std::string folder) : folder_(std::move(folder)) {}

  Status OpenSingle() {
    const std::string path = Path(kSingleFile);
    auto file = SafetensorsFile::Open(path);
    if (!file) return file.error();
    for (const auto& [name, entry] : file->tensors()) file_of_.emplace(name, path);
    files_.emplace(path, std::move(*file));
    return {};
  }

  Status OpenShards() {
    const std::string index = Path(kIndexFile);
    const auto text = ReadTextFile(index, kMaxJsonBytes);
    if (!text) return text.error();
    const auto parsed = ParseJsonObject(*text, index);
    if (!parsed) return parsed.error();
    const auto map = parsed->find("weight_map");
    if (map == parsed->end() || !map->is_object())
      return InvalidArgument(index, "weight_map: must be an object");
    for (const auto& [name, shard] : map->items()) {
      if (auto status = AddSharded(index, name, shard); !status.ok()) return status;
    }
    return {};
  }

  Result<SourceTensor> Get(const std::string& name, std::span<const int64_t> shape) override {
    const auto file_name = file_of_.find(name);
    if (file_name == file_of_.end()) return InvalidArgument(Where(name), "tensor " + name + " is missing");
    const SafetensorsFile& file = files_.at(file_name->second);
    const SafetensorsEntry& entry = *file.Find(name);
    if (!entry.dtype) {
      return InvalidArgument(file_name->second, "tensor " + name + ": dtype " + entry.dtype_name +
                                                    " is not supported; F32, F16 and BF16 are");
    }
    if (!std::equal(shape.begin(), shape.end(), entry.shape.begin(), entry.shape.end())) {
      return InvalidArgument(file_name->second, "tensor " + name + ": has shape " + ShapeText(entry.shape) +
                                                    ", config.json asks for " + ShapeText(shape));
    }
    const HostTensor tensor{.data = entry.data.data(),
                            .dtype = *entry.dtype,
                            .rows = shape.size() == 1 ? 1 : shape.front(),
                            .cols = shape.back()};
    return SourceTensor{tensor, file.mapping()};
  }

  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    names.reserve(file_of_.size());
    for (const auto& [name, file] : file_of_) names.push_back(name);
    return names;
  }

  std::string Where(const std::string& name) const override {
    const auto file = file_of_.find(name);
    if (file != file_of_.end()) return file->second;
    return files_.size() == 1 ? files_.begin()->first : Path(kIndexFile);
  }

 private:
  std::string Path(const std::string& file) const { return (std::filesystem::path(folder_) / file).string(); }

  Status AddSharded(const std::string& index, const std::string& name, const nlohmann::json& shard) {
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    // A plain name, so that a folder cannot point outside itself.
    const bool plain = !file.empty() && file.find('/') == std::string::npos &&
                       file.find('\0') == std::string::npos && file.ends_with(".safetensors");
    if (!plain) {
      return InvalidArgument(index,
                             "weight_map: " + Printable(name) + ": must be the name of a .safetensors file");
    }
    const std::string path = Path(file);
    auto opened = files_.find(path);
    if (opened == files_.end()) {
      auto mapped = SafetensorsFile::Open(path);
      if (!mapped) return InvalidArgument(Printable(path), mapped.error().message);
      opened = files_.emplace(path, std::move(*mapped)).first;
    }
    if (opened->second.Find(name) == nullptr) {
      return InvalidArgument(Printable(path),
                             "tensor " + Printable(name) + " is missing, though " + kIndexFile + " lists it");
    }
    file_of_.emplace(name, path);
    return {};
  }

  std::string folder_;
  std::map<std::string, SafetensorsFile> files_;  // by path
  std::map<std::string, std::string> file_of_;    // path by tensor name
};

}  // namespace

Result<std::unique_ptr<TensorSource>> OpenCheckpoint(const std::string& folder) {
  auto checkpoint = std::make_unique<Checkpoint>(folder);
  const std::filesystem::path root(folder);
  std::error_code error;
  Status status;
  if (std::filesystem::exists(root / kSingleFile, error)) {
    status = checkpoint->OpenSingle();
  } else if (std::filesystem::exists(root / kIndexFile, error)) {
    status = checkpoint->OpenShards();
  } else {
    return InvalidArgument(folder, std::string("holds neither ") + kSingleFile + " nor " + kIndexFile);
  }
  if (!status.ok()) return status.error();
  return std::unique_ptr<TensorSource>(std::move(checkpoint));
}

}  // namespace espalier
