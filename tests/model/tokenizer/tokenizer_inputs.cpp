#include "tests/model/tokenizer/tokenizer_inputs.h"

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "model/tokenizer/utf8.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier::test {

std::filesystem::path Data() { return SourceDir() / "tests/model/tokenizer/data"; }

const std::vector<std::string>& OwnTokenizers() {
  static const std::vector<std::string> names = {"bpe_prepend", "bpe_metaspace", "bpe_partial",    "sp_bpe",
                                                 "sp_unigram",  "byte_level",    "byte_level_gpt2"};
  return names;
}

std::unique_ptr<Tokenizer> LoadOwn(const std::string& name) {
  auto tokenizer = LoadTokenizer(Data() / name);
  if (!tokenizer) FAIL(tokenizer.error().ToString());
  return std::move(*tokenizer);
}

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
  std::map<uint8_t, int32_t> byte_level;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const TokenInfo& info = tokenizer.Info(id);
    if (info.kind == TokenInfo::Kind::kBytes && info.text.size() == 1) {
      byte_level.emplace(static_cast<uint8_t>(info.text[0]), id);
    }
  }
  if (byte_level.size() == 256) {
    for (const auto& [byte, id] : byte_level) ids.push_back(id);
    return ids;
  }
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

TempFolder::TempFolder() {
  std::random_device random;
  path_ = std::filesystem::temp_directory_path() /
          ("espalier-tokenizer-" + std::to_string(random()) + std::to_string(random()));
  std::filesystem::create_directories(path_);
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void TempFolder::Write(const std::string& name, std::string_view bytes) const {
  std::ofstream file(path_ / name, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(file.good());
}

std::string ReadBytes(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  REQUIRE(stream.good());
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

}  // namespace espalier::test
