#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>

#include "kernels/cpu/memory.h"
#include "model/folder_hints.h"
#include "model/json_text.h"
#include "model/read_elements.h"
#include "model/safetensors.h"
#include "model/tensor_source.h"

namespace espalier {

namespace {

constexpr uint64_t kPieceBytes = uint64_t{256} << 10;

std::string ShapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

// The message of a tensor with values that no weight may have.
std::string UnfitMessage(const UnfitValues& unfit, const SafetensorsEntry& entry, DType kept) {
  const uint64_t elements = entry.bytes / SizeOf(*entry.dtype);
  const auto count = [&](int64_t bad) {
    return std::to_string(bad) + " of " + std::to_string(elements) + " values " + (bad == 1 ? "is" : "are");
  };
  std::string message;
  if (unfit.not_finite > 0) message = count(unfit.not_finite) + " NaN or infinite";
  if (unfit.too_large > 0) {
    message += (message.empty() ? "" : ", ") + count(unfit.too_large) + " too large for " + Name(kept);
  }
  return message + "; the first at element " + std::to_string(unfit.first);
}

class Checkpoint : public TensorSource {
 public:
  explicit Checkpoint(std::string folder) : folder_(std::move(folder)) {}

  Status OpenSingle() {
    const std::string path = Path(kWeightsFile);
    auto file = SafetensorsFile::Open(path);
    if (!file) return file.error();
    for (const auto& [name, entry] : file->tensors()) file_of_.emplace(name, path);
    files_.emplace(path, std::move(*file));
    return {};
  }

  Status OpenShards() {
    const std::string index = Path(kWeightsIndexFile);
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
    for (const auto& [path, file] : files_) {
      for (const auto& [name, entry] : file.tensors()) {
        const auto [place, added] = file_of_.emplace(name, path);
        if (!added && place->second != path && !map->contains(name)) {
          return InvalidArgument(path, "tensor " + Printable(name) + ": " + place->second + " holds it too");
        }
      }
    }
    return {};
  }

  Result<SourceTensor> Get(const std::string& name, std::span<const int64_t> shape, DType kept) override {
    const auto file_name = file_of_.find(name);
    if (file_name == file_of_.end()) {
      const bool listed = listed_only_.contains(name);
      return InvalidArgument(listed ? listed_only_.at(name) : Where(name),
                             "tensor " + Printable(name) + " is missing" +
                                 (listed ? std::string(", though ") + kWeightsIndexFile + " lists it" : ""));
    }
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
    auto memory = cpu::Buffer::Allocate(static_cast<int64_t>(entry.bytes), "model");
    if (!memory) return memory.error();
    auto owner = std::make_shared<const cpu::Buffer>(std::move(*memory));
    if (auto status = ReadSound(file, name, kept, owner->as<std::byte>()); !status.ok()) {
      return status.error();
    }
    const HostTensor tensor{.data = owner->data(),
                            .dtype = *entry.dtype,
                            .rows = shape.size() == 1 ? 1 : shape.front(),
                            .cols = shape.back()};
    return SourceTensor{tensor, std::move(owner)};
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
    return files_.size() == 1 ? files_.begin()->first : Path(kWeightsIndexFile);
  }

  Result<bool> IsZero(const std::string& name) override {
    const SafetensorsFile& file = files_.at(file_of_.at(name));
    const SafetensorsEntry& entry = *file.Find(name);
    bool zero = true;
    std::vector<std::byte> piece;
    for (uint64_t at = 0; at < entry.bytes && zero; at += piece.size()) {
      piece.resize(static_cast<size_t>(std::min(kPieceBytes, entry.bytes - at)));
      if (auto status = file.file().Read(entry.offset + at, piece); !status.ok()) return status.error();
      zero = std::all_of(piece.begin(), piece.end(), [](std::byte byte) { return byte == std::byte{0}; });
    }
    return zero;
  }

  Result<bool> AreEqual(const std::string& a, const std::string& b) override {
    const SafetensorsFile& file_a = files_.at(file_of_.at(a));
    const SafetensorsFile& file_b = files_.at(file_of_.at(b));
    const SafetensorsEntry& entry_a = *file_a.Find(a);
    const SafetensorsEntry& entry_b = *file_b.Find(b);
    if (entry_a.dtype_name != entry_b.dtype_name || entry_a.shape != entry_b.shape) return false;
    std::vector<std::byte> piece_a;
    std::vector<std::byte> piece_b;
    for (uint64_t at = 0; at < entry_a.bytes; at += piece_a.size()) {
      piece_a.resize(static_cast<size_t>(std::min(kPieceBytes, entry_a.bytes - at)));
      piece_b.resize(piece_a.size());
      if (auto status = file_a.file().Read(entry_a.offset + at, piece_a); !status.ok()) return status.error();
      if (auto status = file_b.file().Read(entry_b.offset + at, piece_b); !status.ok()) return status.error();
      if (piece_a != piece_b) return false;
    }
    return true;
  }

  Status CheckUnchanged() const override {
    for (const auto& [path, file] : files_) {
      if (auto status = file.file().CheckUnchanged(); !status.ok()) return status;
    }
    return {};
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
      auto shard_file = SafetensorsFile::Open(path);
      if (!shard_file) return InvalidArgument(Printable(path), shard_file.error().message);
      opened = files_.emplace(path, std::move(*shard_file)).first;
    }
    if (opened->second.Find(name) == nullptr) {
      listed_only_.emplace(name, Printable(path));
    } else {
      file_of_.emplace(name, path);
    }
    return {};
  }

  // Reads a tensor's bytes to `to` and checks its values.
  Status ReadSound(const SafetensorsFile& file, const std::string& name, DType kept, std::byte* to) const {
    const SafetensorsEntry& entry = *file.Find(name);
    const auto unfit = ReadElements(file.file(), entry.offset, entry.bytes, *entry.dtype, kept, to);
    if (!unfit) return unfit.error();
    if (!unfit->any()) return {};
    return InvalidArgument(Where(name), "tensor " + name + ": " + UnfitMessage(*unfit, entry, kept));
  }

  std::string folder_;
  std::map<std::string, SafetensorsFile> files_;    // by path
  std::map<std::string, std::string> file_of_;      // path by tensor name
  std::map<std::string, std::string> listed_only_;  // path by name of tensors that only the index has
};

}  // namespace

Result<std::unique_ptr<TensorSource>> OpenCheckpoint(const std::string& folder) {
  auto checkpoint = std::make_unique<Checkpoint>(folder);
  std::error_code error;
  const bool single = std::filesystem::exists(std::filesystem::path(folder) / kWeightsFile, error);
  const Status status = single ? checkpoint->OpenSingle() : checkpoint->OpenShards();
  if (!status.ok()) return status.error();
  return std::unique_ptr<TensorSource>(std::move(checkpoint));
}

}  // namespace espalier
