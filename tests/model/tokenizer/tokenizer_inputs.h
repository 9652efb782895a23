#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/mix.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier::test {

// tests/model/tokenizer/data.
std::filesystem::path Data();

// The tokenizers that are committed, small ones of every kind: folder names below Data().
const std::vector<std::string>& OwnTokenizers();

// Loads one of them; fails the test case if it does not load.
std::unique_ptr<Tokenizer> LoadOwn(const std::string& name);

// The texts of data/strings.jsonl (made by scripts/make_tokenizer_golden_files.py).
std::vector<std::string> ReadStrings();

// Vigna's splitmix64 (https://prng.di.unimi.it/splitmix64.c), as in the script.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    state_ += kGoldenStep;
    return Mix(state_);
  }
  // In [0, limit).
  size_t Below(size_t limit) { return static_cast<size_t>(Next() % limit); }

 private:
  uint64_t state_;
};

// Ids of the tokens of single bytes: "<0x00>" to "<0xFF>" in order of id, or those of a byte-level vocabulary
// in order of the byte.
std::vector<int32_t> ByteIds(const Tokenizer& tokenizer);

// Tokens, single bytes and whole characters in bytes; the same as in the script.
std::vector<int32_t> RandomIds(uint64_t index, const Tokenizer& tokenizer,
                               const std::vector<int32_t>& byte_ids);

// A folder that is removed with its content at the end of the scope.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void Write(const std::string& name, std::string_view bytes) const;

 private:
  std::filesystem::path path_;
};

std::string ReadBytes(const std::filesystem::path& file);

}  // namespace espalier::test
