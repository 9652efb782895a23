#pragma once

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace espalier::test {

// FNV-1a over 32-bit words and bytes, as in scripts/make_tokenizer_golden_files.py; the low half is what the
// files hold.
class GoldenHash {
 public:
  void AddIds(const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) Add(static_cast<uint32_t>(id));
    Add(0xFFFFFFFFu);
  }
  void AddText(const std::string& text) {
    for (const char c : text) Add(static_cast<uint8_t>(c));
    Add(0xFFFFFFFFu);
  }
  std::string Hex() const {
    char out[16];
    std::snprintf(out, sizeof out, "%08" PRIx32, static_cast<uint32_t>(value_));
    return out;
  }

 private:
  void Add(uint64_t item) { value_ = (value_ ^ item) * 0x100000001B3u; }
  uint64_t value_ = 0xCBF29CE484222325u;
};

}  // namespace espalier::test
