// Tokenizer files of the families that are served, and files put together at random, against the tokenizers
// package: see scripts/make_tokenizer_golden_files.py combinations, which makes the file read here.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "model/tokenizer/stream_decoder.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"
#include "tests/model/tokenizer/golden_hash.h"
#include "tests/model/tokenizer/tokenizer_inputs.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using nlohmann::json;
using test::GoldenHash;

const json& Document() {
  static const json document = json::parse(test::ReadBytes(test::Data() / "combinations.json"));
  return document;
}

std::unique_ptr<Tokenizer> LoadCase(const json& entry) {
  json tokenizer = entry["tokenizer"];
  tokenizer["model"] = Document()["models"][tokenizer["model"].get<std::string>()];
  const test::TempFolder folder;
  folder.Write("tokenizer.json", tokenizer.dump());
  for (const auto& [name, content] : entry["files"].items()) folder.Write(name, content.dump());
  auto loaded = LoadTokenizer(folder.path());
  if (!loaded) FAIL(entry["name"] << ": " << loaded.error().ToString());
  return std::move(*loaded);
}

class Case {
 public:
  explicit Case(const json& entry) : entry_(entry), tokenizer_(LoadCase(entry)) {}

  const Tokenizer& tokenizer() const { return *tokenizer_; }

  std::vector<int32_t> Printable(std::vector<int32_t> ids) const {
    std::erase_if(ids, [this](int32_t id) {
      const json& left_out = entry_["unprintable"];
      return std::find(left_out.begin(), left_out.end(), id) != left_out.end();
    });
    return ids;
  }

  std::vector<int32_t> Encode(const std::string& text, bool at_start, bool parse_special) const {
    auto ids = tokenizer_->Encode(text, {.at_start = at_start, .parse_special = parse_special});
    if (!ids) FAIL(entry_["name"] << ": " << ids.error().ToString());
    return std::move(*ids);
  }

  std::string HashOfText(const std::string& text) const {
    GoldenHash hash;
    for (const bool at_start : {true, false}) {
      for (const bool parse_special : {false, true}) hash.AddIds(Encode(text, at_start, parse_special));
    }
    hash.AddText(tokenizer_->Decode(Printable(Encode(text, true, false))));
    return hash.Hex();
  }

  std::string HashOfIds(uint64_t index) const {
    test::SplitMix64 rng(index);
    std::vector<int32_t> ids(1 + rng.Next() % 12);
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(rng.Next() % static_cast<uint64_t>(tokenizer_->vocab_size()));
    }
    GoldenHash hash;
    hash.AddText(tokenizer_->Decode(Printable(ids)));
    return hash.Hex();
  }

 private:
  const json& entry_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_CASE("tokenizer files of every make agree with the tokenizers package", "[tokenizer]") {
  const auto texts = Document()["text_list"].get<std::vector<std::string>>();
  REQUIRE(texts.size() >= 90);
  size_t compared = 0;
  for (const json& entry : Document()["cases"]) {
    const Case made(entry);
    std::vector<size_t> texts_differ;
    std::istringstream lines(entry["texts"].get<std::string>());
    std::string line;
    for (size_t i = 0; lines >> line; ++i) {
      if (made.HashOfText(texts[i]) != line) texts_differ.push_back(i);
      ++compared;
    }
    std::vector<size_t> ids_differ;
    std::istringstream id_lines(entry["ids"].get<std::string>());
    for (size_t i = 0; id_lines >> line; ++i) {
      if (made.HashOfIds(i) != line) ids_differ.push_back(i);
    }
    INFO(entry["name"] << " " << entry["tokenizer"].dump());
    INFO("texts that differ: " << Catch::Detail::stringify(texts_differ)
                               << ", ids: " << Catch::Detail::stringify(ids_differ));
    CHECK(texts_differ.empty());
    CHECK(ids_differ.empty());
  }
  CHECK(compared >= 90 * texts.size());
  std::printf("%zu files, %zu texts in 4 modes\n", Document()["cases"].size(), compared);
}

TEST_CASE("a stream gives what decoding the whole gives, whatever the decoder", "[tokenizer]") {
  const auto texts = Document()["text_list"].get<std::vector<std::string>>();
  for (const json& entry : Document()["cases"]) {
    const Case made(entry);
    size_t differ = 0;
    for (const std::string& text : texts) {
      const std::vector<int32_t> ids = made.Encode(text, true, true);
      StreamDecoder stream(made.tokenizer(), /*at_start=*/true);
      std::string streamed;
      bool whole = true;
      for (const int32_t id : ids) {
        const std::string piece = stream.Push(id);
        whole = whole && FindInvalidUtf8(piece) == std::string_view::npos;
        streamed += piece;
      }
      streamed += stream.FinishBytewise();
      differ += whole && streamed == made.tokenizer().Decode(ids) ? 0 : 1;
    }
    INFO(entry["name"] << " " << entry["tokenizer"].dump());
    CHECK(differ == 0);
  }
}

}  // namespace
}  // namespace espalier
