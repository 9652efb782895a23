// Files that are missing, damaged or ask for what is not supported: one clear error, never a crash.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/tokenizer/stream_decoder.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"
#include "tests/model/tokenizer/tokenizer_inputs.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using nlohmann::json;

// Loads `bytes` as a file of that name; the error that comes back, "" if none. Errors name the file.
std::string ErrorOf(const std::string& name, std::string_view bytes) {
  const test::TempFolder folder;
  folder.Write(name, bytes);
  const auto tokenizer = LoadTokenizer(folder.path());
  if (tokenizer.ok()) return "";
  CHECK(tokenizer.error().code == ErrorCode::kInvalidArgument);
  CHECK(tokenizer.error().field == (folder.path() / name).string());
  return tokenizer.error().message;
}

json Document() { return json::parse(test::ReadBytes(test::Data() / "bpe_prepend/tokenizer.json")); }

std::string JsonError(const json& document) { return ErrorOf("tokenizer.json", document.dump()); }

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("a tokenizer that is not there is an error", "[tokenizer]") {
  const test::TempFolder folder;
  const auto empty = LoadTokenizer(folder.path());
  REQUIRE(!empty.ok());
  CHECK(empty.error().field == folder.path().string());
  CHECK(empty.error().message == "holds neither tokenizer.model nor tokenizer.json");
  for (const std::string name : {"tokenizer.model", "tokenizer.json", "none/tokenizer.json"}) {
    const auto missing = LoadTokenizer(folder.path() / name);
    REQUIRE(!missing.ok());
    CHECK(missing.error().message == "does not exist");
  }
}

TEST_CASE("empty and foreign files are errors", "[tokenizer]") {
  CHECK(ErrorOf("tokenizer.model", "") == "is empty");
  CHECK(ErrorOf("tokenizer.json", "") == "is empty");
  CHECK(Has(ErrorOf("tokenizer.json", "{\"model\": "), "is no valid JSON"));
  CHECK(Has(ErrorOf("tokenizer.json", "\"\xFF\""), "is no valid JSON"));
  CHECK(ErrorOf("tokenizer.json", "[]") == "must be an object");
  // The parser takes a NUL byte for the end of the text.
  CHECK(ErrorOf("tokenizer.json", Document().dump() + std::string(1, '\0')) ==
        "is no valid JSON: it holds a NUL byte");
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    CHECK(Has(ErrorOf(name, "version https://git-lfs.github.com/spec/v1\noid sha256:01\nsize 9\n"),
              "is a Git LFS pointer"));
  }
  CHECK(Has(ErrorOf("tokenizer.json", "{}"), "model: is missing"));
  CHECK(Has(ErrorOf("tokenizer.model", "hello, this is no model"), "SentencePiece model"));
  CHECK(Has(ErrorOf("tokenizer.model", R"({"model": {}})"), "SentencePiece model"));
}

TEST_CASE("every truncation of a file is an error", "[tokenizer]") {
  const std::string model = test::ReadBytes(test::Data() / "sp_unigram/tokenizer.model");
  size_t accepted = 0;
  for (size_t size = 1; size < model.size(); size += 61) {
    accepted += ErrorOf("tokenizer.model", model.substr(0, size)).empty() ? 1 : 0;
  }
  CHECK(accepted == 0);
  const std::string text = test::ReadBytes(test::Data() / "bpe_metaspace/tokenizer.json");
  for (size_t size = 1; size + 2 < text.size(); size += 97) {
    CHECK(Has(ErrorOf("tokenizer.json", std::string_view(text).substr(0, size)), "is no valid JSON"));
  }
}

TEST_CASE("a vocabulary with ids that stand twice or are missing is refused", "[tokenizer]") {
  json document = Document();
  REQUIRE(JsonError(document) == "");
  document["model"]["vocab"]["<s>"] = 2;
  CHECK(JsonError(document) == "model.vocab: the id 2 stands twice");
  document["model"]["vocab"]["<s>"] = 100000;
  CHECK(Has(JsonError(document), "model.vocab: the id 100000 of \"<s>\" leaves a gap"));
  document["model"]["vocab"]["<s>"] = -1;
  CHECK(Has(JsonError(document), "the id of \"<s>\" is no number"));
  document["model"]["vocab"] = json::object();
  CHECK(JsonError(document) == "model.vocab: is empty");
  document["model"].erase("vocab");
  CHECK(JsonError(document) == "model.vocab: is missing");
}

TEST_CASE("merges that are no pairs or name unknown tokens are refused", "[tokenizer]") {
  for (const json& merge : {json("a b c"), json("ab"), json::array({"a"}), json::array({"a", 1}), json(7)}) {
    json document = Document();
    document["model"]["merges"][3] = merge;
    CHECK(JsonError(document) == "model.merges: entry 3 is no pair of tokens");
  }
  json document = Document();
  document["model"]["merges"][3] = json::array({"no such token", "a"});
  CHECK(JsonError(document) == "model.merges[3]: token \"no such token\" is not in the vocabulary");
  document["model"]["merges"] = "a b";
  CHECK(JsonError(document) == "model.merges: must be an array");
}

TEST_CASE("added tokens that contradict the vocabulary are refused", "[tokenizer]") {
  json document = Document();
  document["added_tokens"][1]["id"] = 5;
  CHECK(JsonError(document) == "added_tokens: \"<s>\" with id 5 has the id 1 in model.vocab");
  document = Document();
  document["added_tokens"][3]["id"] = 5;
  CHECK(Has(JsonError(document), "added_tokens: \"<|turn|>\" with id 5 does not agree with model.vocab"));
  document = Document();
  document["added_tokens"][3]["id"] = document["added_tokens"][4]["id"];
  CHECK(Has(JsonError(document), ", which is that of \"<|turn|>\" in tokenizer.json"));
  document = Document();
  document["added_tokens"][0]["id"] = 1u << 31;
  CHECK(JsonError(document) == "added_tokens[0].id: 2147483648 is no token id");
  document = Document();
  document["added_tokens"][3]["id"] = 100000;
  CHECK(Has(JsonError(document), "\"<|turn|>\" with id 100000 leaves a gap after the vocabulary"));
  document = Document();
  document["added_tokens"][3]["content"] = "";
  CHECK(JsonError(document) == "added_tokens[3].content: is empty");
  document = Document();
  document["added_tokens"][3]["content"] = "[TREE]";
  CHECK(Has(JsonError(document), "added_tokens: \"[TREE]\" has the id "));
  document = Document();
  document["added_tokens"][3]["content"] = "e";
  CHECK(Has(JsonError(document), " in model.vocab"));
}

TEST_CASE("what would not be exact is refused by name", "[tokenizer]") {
  const auto refused = [](const std::string& place, const json& value) {
    json document = Document();
    document[json::json_pointer(place)] = value;
    return JsonError(document);
  };
  CHECK(refused("/model/type", "Unigram") ==
        "model: type \"Unigram\" (a SentencePiece tokenizer.model of that kind is served) is not supported");
  CHECK(refused("/model/type", "WordPiece") ==
        "model: type \"WordPiece\" (only BPE is served) is not supported");
  CHECK(refused("/model/dropout", 0.1) == "model.dropout: dropout is not supported");
  CHECK(refused("/model/continuing_subword_prefix", "##") ==
        "model: continuing_subword_prefix is not supported");
  CHECK(refused("/model/end_of_word_suffix", "</w>") == "model: end_of_word_suffix is not supported");
  CHECK(refused("/model/unk_token", "<none>") == "model.unk_token: \"<none>\" is not in the vocabulary");
  CHECK(refused("/pre_tokenizer", {{"type", "BertPreTokenizer"}}) ==
        "pre_tokenizer: type \"BertPreTokenizer\" is not supported");
  CHECK(
      refused("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}}) ==
      "pre_tokenizer: prepend_scheme \"first\" next to a normalizer is not supported");
  CHECK(
      refused("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "last"}}) ==
      "pre_tokenizer: prepend_scheme \"last\" is not supported");
  CHECK(refused("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "ab"}}) ==
        "pre_tokenizer.replacement: must be one character");
  CHECK(refused("/normalizer/normalizers/0", {{"type", "StripAccents"}}) ==
        "normalizer.normalizers[0]: type \"StripAccents\" is not supported");
  CHECK(refused("/normalizer/normalizers/1/pattern", {{"Regex", "(?<=a)b"}}) ==
        "normalizer.normalizers[1].pattern.Regex: \"(?<\" is not supported");
  CHECK(refused("/normalizer", {{"type", "Strip"}, {"strip_left", true}}) ==
        "normalizer.strip_right: is missing");
  CHECK(refused("/normalizer/normalizers/1/pattern", {{"String", ""}}) ==
        "normalizer.normalizers[1].pattern.String: is empty");
  CHECK(refused("/post_processor", {{"type", "Other"}}) == "post_processor: type \"Other\" is not supported");
  CHECK(refused("/post_processor", {{"type", "BertProcessing"}}) == "post_processor.cls: is missing");
  const json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  CHECK(refused("/post_processor/single", json::array({bos, bos})) ==
        "post_processor.single: more than one token before the text is not supported");
  CHECK(refused("/decoder", {{"type", "WordPiece"}}) ==
        "decoder: type \"WordPiece\" at this place is not supported");
  CHECK(refused("/decoder/decoders/3/stop", 1) == "decoder.decoders[3].stop: 1 is not supported");
  CHECK(refused("/decoder/decoders/2", {{"type", "ByteLevel"}}) ==
        "decoder.decoders[2]: type \"ByteLevel\" at this place is not supported");
  CHECK(refused("/decoder/decoders/1", {{"type", "CTC"}}) ==
        "decoder.decoders[1]: type \"CTC\" at this place is not supported");
  CHECK(refused("/decoder/decoders/2", {{"type", "Metaspace"}, {"replacement", "▁"}}) ==
        "decoder.decoders[2]: type \"Metaspace\" at this place is not supported");
  CHECK(refused("/added_tokens/4/special", "yes") == "added_tokens[4].special: must be true or false");
}

TEST_CASE("what would not be exact in a byte-level tokenizer is refused by name", "[tokenizer]") {
  const auto original = json::parse(test::ReadBytes(test::Data() / "byte_level/tokenizer.json"));
  REQUIRE(JsonError(original) == "");
  const auto refused = [&original](const std::string& place, const json& value) {
    json document = original;
    document[json::json_pointer(place)] = value;
    return JsonError(document);
  };
  const std::string split = "/pre_tokenizer/pretokenizers/0";
  const std::string bytes = "/pre_tokenizer/pretokenizers/1";
  const std::string split_path = "pre_tokenizer.pretokenizers[0]";
  CHECK(refused("/normalizer", {{"type", "Nmt"}}) == "normalizer: type \"Nmt\" is not supported");
  CHECK(refused(split + "/behavior", "Gone") == split_path + ": behavior \"Gone\" is not supported");
  CHECK(refused(split + "/invert", 1) == split_path + ".invert: must be true or false");
  CHECK(refused(split + "/pattern", {{"String", ""}}) == split_path + ".pattern.String: is empty");
  CHECK(refused(split + "/pattern", json::object()) == split_path + ".pattern.Regex: is missing");
  CHECK(refused(split + "/pattern/Regex", "") == split_path + ".pattern.Regex: is empty");
  CHECK(refused(split + "/pattern/Regex", 3) == split_path + ".pattern.Regex: must be a string");
  CHECK(Has(refused(split + "/pattern/Regex", "(a"), split_path + ".pattern.Regex: is no valid pattern"));
  CHECK(refused(split + "/pattern/Regex", "\\h+") == split_path + ".pattern.Regex: \"\\h\" is not supported");
  CHECK(refused(split + "/type", "UnicodeScripts") ==
        split_path + ": type \"UnicodeScripts\" is not supported");
  CHECK(refused(bytes + "/add_prefix_space", 1) ==
        "pre_tokenizer.pretokenizers[1].add_prefix_space: must be true or false");
  CHECK(refused("/pre_tokenizer/pretokenizers",
                json::array({original["pre_tokenizer"]["pretokenizers"][1],
                             {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}}})) ==
        "pre_tokenizer.pretokenizers[1]: prepend_scheme \"first\" at this place is not supported");
  json nested = original["pre_tokenizer"];
  for (int i = 0; i < 20; ++i) nested = {{"type", "Sequence"}, {"pretokenizers", json::array({nested})}};
  CHECK(Has(refused("/pre_tokenizer", nested), "a Sequence this deep is not supported"));
  CHECK(refused("/post_processor/processors/0", original["post_processor"]["processors"][1]) ==
        "post_processor.processors[1]: a second TemplateProcessing is not supported");
  CHECK(refused("/post_processor/processors/0/type", "RobertaProcessing") ==
        "post_processor.processors[0].cls: is missing");
}

TEST_CASE("settings of batches do not matter", "[tokenizer]") {
  json document = Document();
  document["truncation"] = {{"max_length", 1}, {"strategy", "unheard of"}};
  document["padding"] = {{"direction", "Left"}};
  CHECK(JsonError(document) == "");
}

TEST_CASE("damaged configuration files are named", "[tokenizer]") {
  for (const std::string name : {"bpe_prepend/tokenizer.json", "sp_bpe/tokenizer.model"}) {
    const auto source = test::Data() / name;
    const auto error = [&](const std::string& file, const std::string& bytes) {
      const test::TempFolder folder;
      folder.Write(source.filename().string(), test::ReadBytes(source));
      folder.Write(file, bytes);
      const auto tokenizer = LoadTokenizer(folder.path());
      REQUIRE(!tokenizer.ok());
      CHECK(tokenizer.error().field == (folder.path() / file).string());
      return tokenizer.error().message;
    };
    CHECK(Has(error("tokenizer_config.json", "{"), "is no valid JSON"));
    CHECK(error("tokenizer_config.json", "[]") == "must be an object");
    CHECK(error("tokenizer_config.json", R"({"bos_token": 3})") == "bos_token: must be a string");
    CHECK(error("tokenizer_config.json", R"({"bos_token": "<none>"})") ==
          "bos_token: the vocabulary has no token \"<none>\"");
    CHECK(error("tokenizer_config.json", R"({"eos_token": {"text": "x"}})") ==
          "eos_token.content: is missing");
    CHECK(error("tokenizer_config.json", R"({"add_bos_token": 1})") ==
          "add_bos_token: must be true or false");
    CHECK(error("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "y"}}})") ==
          "added_tokens_decoder: \"x\" is no token id");
    CHECK(error("special_tokens_map.json", "x").starts_with("is no valid JSON"));
  }
  const test::TempFolder folder;
  folder.Write("tokenizer.model", test::ReadBytes(test::Data() / "sp_bpe/tokenizer.model"));
  folder.Write("tokenizer_config.json", R"({"added_tokens_decoder": {"900000": {"content": "<|y|>"}}})");
  const auto tokenizer = LoadTokenizer(folder.path());
  REQUIRE(!tokenizer.ok());
  CHECK(Has(tokenizer.error().message, "\"<|y|>\" has the id 900000, which leaves a gap"));
}

// How often each fuzz test below runs; ESPALIER_FUZZ_RUNS sets another number for a longer search.
uint64_t Runs(uint64_t otherwise) {
  const char* value = std::getenv("ESPALIER_FUZZ_RUNS");
  return value != nullptr ? std::strtoull(value, nullptr, 10) : otherwise;
}

std::string Mutate(std::string bytes, test::SplitMix64* rng) {
  const size_t edits = 1 + rng->Below(4);
  for (size_t i = 0; i < edits && !bytes.empty(); ++i) {
    const size_t at = rng->Below(bytes.size());
    const size_t count = 1 + rng->Below(16);
    switch (rng->Below(5)) {
      case 0:
        bytes[at] = static_cast<char>(rng->Next());
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng->Below(8)));
        break;
      case 2:
        bytes.erase(at, count);
        break;
      case 3:
        bytes.insert(at, bytes.substr(rng->Below(bytes.size()), count));
        break;
      case 4:
        bytes.insert(at, count, static_cast<char>(rng->Next()));
        break;
    }
  }
  return bytes;
}

// Uses a tokenizer in every way; what it gives must be sound text whatever it was loaded from.
void Exercise(const Tokenizer& tokenizer, uint64_t seed) {
  test::SplitMix64 rng(seed);
  for (const std::string_view text :
       {"", " ", "One tree.\n  A\tfiＡ\u00AD AB", "Äste 枝 😀 </s> [TREE]needle <sep> 12 ▁"}) {
    for (const bool at_start : {true, false}) {
      const auto ids = tokenizer.Encode(text, {.at_start = at_start, .parse_special = at_start});
      if (!ids) continue;
      for (const int32_t id : *ids) REQUIRE(tokenizer.IsValid(id));
      REQUIRE(FindInvalidUtf8(tokenizer.Decode(*ids)) == std::string_view::npos);
    }
  }
  StreamDecoder stream(tokenizer, true);
  std::string text;
  for (int i = 0; i < 50; ++i) {
    text += stream.Push(static_cast<int32_t>(rng.Below(static_cast<size_t>(tokenizer.vocab_size()) + 2)) - 1);
  }
  REQUIRE(FindInvalidUtf8(text + stream.Finish()) == std::string_view::npos);
}

TEST_CASE("damaged tokenizer files give an error or a tokenizer that works", "[tokenizer]") {
  const test::TempFolder folder;
  for (const std::string& name : test::OwnTokenizers()) {
    const std::string file = name.starts_with("sp") ? "tokenizer.model" : "tokenizer.json";
    const std::string bytes = test::ReadBytes(test::Data() / name / file);
    uint64_t refused = 0;
    const uint64_t runs = Runs(250);
    for (uint64_t seed = 0; seed < runs; ++seed) {
      INFO(name << ", seed " << seed);
      test::SplitMix64 rng(seed);
      folder.Write(file, Mutate(bytes, &rng));
      const auto tokenizer = LoadTokenizer(folder.path() / file);
      if (tokenizer.ok()) {
        Exercise(**tokenizer, seed);
      } else {
        ++refused;
        REQUIRE(!tokenizer.error().message.empty());
      }
    }
    CHECK(refused > runs / 10);
  }
}

TEST_CASE("random bytes as text are refused or come back", "[tokenizer]") {
  for (const std::string name : {"sp_bpe", "bpe_prepend", "bpe_metaspace", "byte_level", "byte_level_gpt2"}) {
    const auto tokenizer = test::LoadOwn(name);
    uint64_t refused = 0;
    const uint64_t runs = Runs(2000);
    for (uint64_t seed = 0; seed < runs; ++seed) {
      test::SplitMix64 rng(seed);
      std::string text;
      const size_t parts = rng.Below(12);
      for (size_t i = 0; i < parts; ++i) {
        if (rng.Below(12) == 0) {
          text += static_cast<char>(rng.Next());
        } else {
          const auto c = static_cast<char32_t>(rng.Below(rng.Below(2) == 0 ? 0x80 : 0x110000));
          // Not a space mark, which decodes to a space, and no surrogate.
          if (c != 0x2581 && !(c >= 0xD800 && c < 0xE000)) AppendUtf8(c, &text);
        }
      }
      INFO(name << ", seed " << seed);
      for (const bool at_start : {true, false}) {
        const auto ids = tokenizer->Encode(text, {.at_start = at_start});
        REQUIRE(ids.ok() == (FindInvalidUtf8(text) == std::string_view::npos));
        refused += ids.ok() ? 0 : 1;
        // Metaspace adds no prefix before a space, yet decoding removes one: the package loses it as well.
        if (at_start && name == "bpe_metaspace" && text.starts_with(' ')) continue;
        if (ids.ok())
          REQUIRE((at_start ? tokenizer->Decode(*ids) : tokenizer->DecodeContinuation(*ids)) == text);
      }
    }
    CHECK(refused > 0);
    CHECK(refused < 2 * runs);
  }
}

}  // namespace
}  // namespace espalier
