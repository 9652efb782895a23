#include "model/folder_hints.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

namespace espalier {

namespace {

namespace fs = std::filesystem;

bool IsHubCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
         c == '.';
}

// "owner/name", which is no path that says where it begins.
bool LooksLikeHubName(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos || slash == 0 || slash + 1 == text.size()) return false;
  if (text.front() == '.' || text.front() == '-') return false;
  const std::string_view owner = text.substr(0, slash);
  const std::string_view name = text.substr(slash + 1);
  return std::all_of(owner.begin(), owner.end(), IsHubCharacter) &&
         std::all_of(name.begin(), name.end(), IsHubCharacter);
}

// Names in the folder that end so, ascending; at most a few thousand entries are looked at.
std::vector<std::string> NamesEndingIn(const std::string& folder, const std::vector<std::string>& endings) {
  std::vector<std::string> names;
  std::error_code error;
  int left = 4096;
  for (fs::directory_iterator it(folder, error), end; !error && it != end && left > 0; it.increment(error)) {
    --left;
    const std::string name = it->path().filename().string();
    for (const std::string& ending : endings) {
      if (name.ends_with(ending)) names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Control characters of a file's name must not reach a terminal.
std::string Clean(std::string name) {
  for (char& c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return name;
}

constexpr const char* kGguf =
    "GGUF is not read: give a folder in Hugging Face form, with config.json and .safetensors files";
constexpr const char* kPickle =
    "such files are not read; transformers writes .safetensors files: "
    "from_pretrained(FOLDER), then save_pretrained(NEW_FOLDER)";

const std::string kAdapter =
    "; it holds an adapter (adapter_config.json), which must be merged into its base model first";

// Weights under other names, as HeldInstead says it.
std::string WeightsInstead(const std::string& folder) {
  if (const auto names = NamesEndingIn(folder, {".safetensors"}); !names.empty()) {
    return names.front().starts_with("adapter_")
               ? kAdapter
               : "; it holds " + Clean(names.front()) + ", but no index that names it";
  }
  if (const auto names = NamesEndingIn(folder, {".bin", ".pth", ".pt"}); !names.empty()) {
    return "; it holds " + Clean(names.front()) + ": " + kPickle;
  }
  return "";
}

}  // namespace

std::string MissingMessage(const std::string& path) {
  if (!LooksLikeHubName(path)) return "does not exist";
  const std::string name = path.substr(path.find('/') + 1);
  return "does not exist; if it is a model on the Hugging Face hub, download it first: hf download " + path +
         " --local-dir " + name;
}

Status CheckFolder(const std::string& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found) return InvalidArgument(folder, MissingMessage(folder));
  if (status.type() == fs::file_type::none) {
    return InvalidArgument(folder, "cannot be read: " + error.message());
  }
  if (status.type() != fs::file_type::directory) {
    return InvalidArgument(folder, folder.ends_with(".gguf")
                                       ? std::string("is a file; ") + kGguf
                                       : "is a file; the folder that holds config.json is needed");
  }
  return {};
}

std::string HeldInstead(const std::string& folder) {
  std::error_code error;
  if (fs::is_directory(fs::path(folder) / "snapshots", error)) {
    return "; this is the root of a download cache: the model is in the folder below its snapshots";
  }
  if (const auto names = NamesEndingIn(folder, {".gguf"}); !names.empty()) {
    return "; it holds " + Clean(names.front()) + ": " + kGguf;
  }
  if (const auto names = NamesEndingIn(folder, {".incomplete", ".part", ".crdownload"}); !names.empty()) {
    return "; it holds " + Clean(names.front()) + ": a download that has not finished";
  }
  return "";
}

Status CheckModelFolder(const std::string& folder) {
  if (auto status = CheckFolder(folder); !status.ok()) return status;
  const auto lacks = [&](const char* file) {
    std::error_code error;
    return fs::status(fs::path(folder) / file, error).type() == fs::file_type::not_found;
  };
  if (lacks(kConfigFile)) {
    const std::string held = HeldInstead(folder);
    const bool adapter = held.empty() && !lacks("adapter_config.json");
    return InvalidArgument((fs::path(folder) / kConfigFile).string(),
                           "does not exist" + (adapter ? kAdapter : held));
  }
  if (lacks(kWeightsFile) && lacks(kWeightsIndexFile)) {
    const std::string held = HeldInstead(folder);
    return InvalidArgument(folder, std::string("holds neither ") + kWeightsFile + " nor " +
                                       kWeightsIndexFile + (held.empty() ? WeightsInstead(folder) : held));
  }
  return {};
}

Status CheckNotLfsPointer(std::string_view beginning, const std::string& file) {
  if (!beginning.starts_with("version https://git-lfs")) return {};
  return InvalidArgument(file, "is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder");
}

}  // namespace espalier
