#pragma once

#include <string>
#include <string_view>

#include "kernels/base/result.h"

// What people give in place of a model's folder, and what to do then. One place for it: the model's files and
// the tokenizer's say the same.
namespace espalier {

// Errors (kInvalidArgument, field == folder): it does not exist (with the command that downloads it, where it
// looks like a name on the Hugging Face hub), is a file, may not be read.
Status CheckFolder(const std::string& folder);

// Why a path that does not exist may not: "does not exist", with a hint as above.
std::string MissingMessage(const std::string& path);

// What a folder that lacks a file holds instead, to go behind an error: GGUF, the root of a download cache,
// an unfinished download; begins with "; ". Empty where there is nothing to say.
std::string HeldInstead(const std::string& folder);

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kWeightsFile = "model.safetensors";
inline constexpr const char* kWeightsIndexFile = "model.safetensors.index.json";

// CheckFolder, and that kConfigFile and one of the files of weights are there; an error says what is instead.
Status CheckModelFolder(const std::string& folder);

// Refuses a Git LFS pointer, by the first bytes of a file.
Status CheckNotLfsPointer(std::string_view beginning, const std::string& file);

}  // namespace espalier
