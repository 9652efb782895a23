// Ids and text against the sentencepiece and tokenizers packages: see scripts/make_tokenizer_golden_files.py,
// which makes the files read here and prints what a package gives for a text (`show NAME INDEX`).
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "tests/model/tokenizer/golden_hash.h"
#include "tests/model/tokenizer/tokenizer_inputs.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier {
namespace {

using test::Data;

struct Golden {
  std::set<int32_t> unprintable;  // Ids left out before decoding: see the script.
  std::vector<std::string> encode_lines;
  std::vector<std::string> decode_lines;
};

Golden ReadGolden(const std::string& name) {
  Golden golden;
  std::ifstream file(Data() / "golden_files" / (name + ".txt"));
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
  test::GoldenHash hash;
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
  const std::vector<std::string> strings = test::ReadStrings();
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

  const std::vector<int32_t> byte_ids = test::ByteIds(**tokenizer);
  std::vector<size_t> decode_differ;
  for (size_t i = 0; i < golden.decode_lines.size(); ++i) {
    test::GoldenHash hash;
    hash.AddText((*tokenizer)->Decode(Printable(golden, test::RandomIds(i, **tokenizer, byte_ids))));
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

TEST_CASE("byte-level BPE with Llama 3's pattern agrees with the tokenizers package", "[tokenizer]") {
  CheckGolden("byte_level", Data() / "byte_level");
}

TEST_CASE("byte-level BPE with GPT-2's pattern agrees with the tokenizers package", "[tokenizer]") {
  CheckGolden("byte_level_gpt2", Data() / "byte_level_gpt2");
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

TEST_CASE("Llama 3's tokenizer.json agrees with the tokenizers package", "[tokenizer]") {
  const auto shared = test::EnvOrSkip("ESPALIER_SHARED_DIR");
  if (!shared) return;
  CheckGolden("llama3", std::filesystem::path(*shared) / "tokenizers/llama3/tokenizer.json");
}

TEST_CASE("TinyStories' tokenizer.json agrees with the tokenizers package", "[tokenizer]") {
  const auto shared = test::EnvOrSkip("ESPALIER_SHARED_DIR");
  if (!shared) return;
  CheckGolden("tinystories", std::filesystem::path(*shared) / "models/TinyStories-656K");
}

}  // namespace
}  // namespace espalier
