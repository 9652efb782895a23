// Ids and text against the sentencepiece and tokenizers packages: see scripts/make_tokenizer_goldens.py,
// which makes the files read here and prints what a package gives for a text (`show NAME INDEX`).
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier {
namespace {

std::filesystem::path Data() { return test::SourceDir() / "tests/model/tokenizer/data"; }

// FNV-1a over 32-bit words and bytes, as in the script; the low half is what the files hold.
class Hash {
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

// Vigna's splitmix64 (https://prng.di.unimi.it/splitmix64.c), as in the script.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

std::vector<std::string> ReadStrings() {
  std::vector<std::string> strings;
  std::ifstream file(Data() / "strings.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto entry = nlohmann::json::parse(line);
    const auto unit = (entry.is_string() ? entry : entry[0]).get<std::string>();
    std::string text;
    for (int i = 0; i < (entry.is_string() ? 1 : entry[1].get<int>()); ++i) text += unit;
    strings.push_back(text);
  }
  return strings;
}

std::vector<int32_t> ByteIds(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string& piece = tokenizer.Piece(id);
    const bool is_byte = piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with('>') &&
                         piece.find_first_not_of("0123456789ABCDEF", 3) == 5;
    if (is_byte) ids.push_back(id);
  }
  return ids;
}

std::vector<int32_t> RandomIds(uint64_t index, const Tokenizer& tokenizer,
                               const std::vector<int32_t>& byte_ids) {
  SplitMix64 rng(index);
  std::vector<int32_t> ids;
  const uint64_t steps = 1 + rng.Next() % 16;
  for (uint64_t i = 0; i < steps; ++i) {
    const uint64_t kind = rng.Next() % 4;
    const uint64_t value = rng.Next();
    if (kind >= 2 || byte_ids.size() < 256) {
      ids.push_back(static_cast<int32_t>(value % static_cast<uint64_t>(tokenizer.vocab_size())));
    } else if (kind == 1) {
      ids.push_back(byte_ids[value % 256]);
    } else {
      const bool low = (value >> 40 & 1) != 0;
      std::string bytes;
      AppendUtf8(static_cast<char32_t>(low ? value % 0xD000 : 0x10000 + value % 0x100000), &bytes);
      for (const char byte : bytes) ids.push_back(byte_ids[static_cast<uint8_t>(byte)]);
    }
  }
  return ids;
}

struct Golden {
  std::set<int32_t> unprintable;  // Ids left out before decoding: see the script.
  std::vector<std::string> encode_lines;
  std::vector<std::string> decode_lines;
};

Golden ReadGolden(const std::string& name) {
  Golden golden;
  std::ifstream file(Data() / "goldens" / (name + ".txt"));
  std::string line;
  std::getline(file, line);
  std::istringstream header(line.substr(line.find("unprintable") + 11));
  for (int32_t id; header >> id;) golden.unprintable.insert(id);
  auto* lines = &golden.encode_lines;
  while (std::getline(file, line)) {
    if (line == "decode") {
      lines = &golden.decode_lines;
    } else {
      lines->push_back(line);
    }
  }
  return golden;
}

std::vector<int32_t> Printable(const Golden& golden, std::vector<int32_t> ids) {
  std::erase_if(ids, [&](int32_t id) { return golden.unprintable.contains(id); });
  return ids;
}

std::string GoldenLine(const Tokenizer& tokenizer, const Golden& golden, const std::string& text) {
  Hash hash;
  std::vector<int32_t> plain;
  for (const bool at_start : {true, false}) {
    for (const bool parse_special : {false, true}) {
      auto ids = tokenizer.Encode(text, {.at_start = at_start, .parse_special = parse_special});
      REQUIRE(ids.ok());
      hash.AddIds(*ids);
      if (at_start && !parse_special) plain = std::move(*ids);
    }
  }
  hash.AddText(tokenizer.Decode(Printable(golden, plain)));
  return std::to_string(plain.size()) + " " + hash.Hex();
}

void CheckGolden(const std::string& name, const std::filesystem::path& file) {
  const auto tokenizer = LoadTokenizer(file);
  if (!tokenizer) FAIL(tokenizer.error().ToString());
  const std::vector<std::string> strings = ReadStrings();
  const Golden golden = ReadGolden(name);
  REQUIRE(strings.size() >= 2500);
  REQUIRE(golden.encode_lines.size() == strings.size());
  REQUIRE(golden.decode_lines.size() >= 1000);

  std::vector<size_t> differ;
  for (size_t i = 0; i < strings.size(); ++i) {
    if (GoldenLine(**tokenizer, golden, strings[i]) != golden.encode_lines[i]) differ.push_back(i);
  }
  INFO(name << ": texts that differ, by index: " << Catch::Detail::stringify(differ));
  CHECK(differ.empty());

  const std::vector<int32_t> byte_ids = ByteIds(**tokenizer);
  std::vector<size_t> decode_differ;
  for (size_t i = 0; i < golden.decode_lines.size(); ++i) {
    Hash hash;
    hash.AddText((*tokenizer)->Decode(Printable(golden, RandomIds(i, **tokenizer, byte_ids))));
    if (hash.Hex() != golden.decode_lines[i]) decode_differ.push_back(i);
  }
  INFO(name << ": id sequences that differ: " << Catch::Detail::stringify(decode_differ));
  CHECK(decode_differ.empty());
  std::printf("%s: %zu texts in 4 modes, %zu id sequences\n", name.c_str(), strings.size(),
              golden.decode_lines.size());
}

TEST_CASE("BPE with a prefix by the normaliser agrees with the tokenizers package", "[tokenizer]") {
  CheckGolden("bpe_prepend", Data() / "bpe_prepend");
}

TEST_CASE("BPE with Metaspace agrees with the tokenizers package", "[tokenizer]") {
  CheckGolden("bpe_metaspace", Data() / "bpe_metaspace");
}

TEST_CASE("BPE with missing byte tokens agrees with the tokenizers package", "[tokenizer]") {
  CheckGolden("bpe_partial", Data() / "bpe_partial");
}

TEST_CASE("a SentencePiece BPE model agrees with the sentencepiece package", "[tokenizer]") {
  CheckGolden("sp_bpe", Data() / "sp_bpe");
}

TEST_CASE("a SentencePiece unigram model with rules agrees with the sentencepiece package", "[tokenizer]") {
  CheckGolden("sp_unigram", Data() / "sp_unigram");
}

TEST_CASE("the demo model's tokenizer agrees with the sentencepiece package", "[tokenizer]") {
  CheckGolden("demo", test::SourceDir() / "model/demo/tokenizer.model");
}

TEST_CASE("Llama 2's tokenizer.model agrees with the sentencepiece package", "[tokenizer]") {
  const auto shared = test::EnvOrSkip("ESPALIER_SHARED_DIR");
  if (!shared) return;
  CheckGolden("llama2", std::filesystem::path(*shared) / "tokenizers/llama2/tokenizer.model");
}

TEST_CASE("TinyStories' tokenizer.json agrees with the tokenizers package", "[tokenizer]") {
  const auto shared = test::EnvOrSkip("ESPALIER_SHARED_DIR");
  if (!shared) return;
  CheckGolden("tinystories", std::filesystem::path(*shared) / "models/TinyStories-656K");
}

}  // namespace
}  // namespace espalier
