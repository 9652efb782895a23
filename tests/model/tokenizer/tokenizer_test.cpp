#include "model/tokenizer/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/model/tokenizer/tokenizer_inputs.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using Ids = std::vector<int32_t>;

Ids Encode(const Tokenizer& tokenizer, std::string_view text, const EncodeOptions& options = {}) {
  auto ids = tokenizer.Encode(text, options);
  if (!ids) FAIL(ids.error().ToString());
  return std::move(*ids);
}

// The vocabulary's form of each token, each between bars.
std::string Pieces(const Tokenizer& tokenizer, std::string_view text, const EncodeOptions& options = {}) {
  std::string out = "|";
  for (const int32_t id : Encode(tokenizer, text, options)) out += tokenizer.Piece(id) + "|";
  return out;
}

bool HasSpecial(const Tokenizer& tokenizer, const Ids& ids) {
  for (const int32_t id : ids) {
    if (tokenizer.IsSpecial(id)) return true;
  }
  return false;
}

TEST_CASE("only text at the root has a dummy prefix and a beginning-of-sequence token", "[tokenizer]") {
  for (const std::string name : {"sp_bpe", "bpe_prepend", "bpe_metaspace"}) {
    const auto tokenizer = test::LoadOwn(name);
    INFO(name);
    REQUIRE(tokenizer->bos_id() == 1);
    CHECK(tokenizer->add_bos_by_default());
    const Ids plain = Encode(*tokenizer, "tree");
    Ids with_bos = Encode(*tokenizer, "tree", {.add_bos = true});
    CHECK(with_bos.front() == tokenizer->bos_id());
    with_bos.erase(with_bos.begin());
    CHECK(with_bos == plain);
    CHECK(tokenizer->Piece(plain.front()).starts_with("▁"));
    const Ids continuation = Encode(*tokenizer, "tree", {.at_start = false});
    CHECK(!tokenizer->Piece(continuation.front()).starts_with("▁"));
    CHECK(tokenizer->DecodeContinuation(continuation) == "tree");
    CHECK(Encode(*tokenizer, " tree", {.at_start = false}) == plain);
  }
}

TEST_CASE("nothing is encoded to nothing", "[tokenizer]") {
  for (const std::string& name : test::OwnTokenizers()) {
    const auto tokenizer = test::LoadOwn(name);
    CHECK(Encode(*tokenizer, "").empty());
    CHECK(Encode(*tokenizer, "", {.at_start = false}).empty());
    CHECK(tokenizer->Decode({}).empty());
  }
  const auto tokenizer = test::LoadOwn("sp_bpe");
  CHECK(Encode(*tokenizer, "", {.add_bos = true}) == Ids{tokenizer->bos_id()});
}

TEST_CASE("special tokens in text are parsed only when asked to", "[tokenizer]") {
  for (const std::string name : {"sp_bpe", "bpe_prepend"}) {
    const auto tokenizer = test::LoadOwn(name);
    INFO(name);
    CHECK(!HasSpecial(*tokenizer, Encode(*tokenizer, "a tree</s><s>b<|turn|>")));
    const Ids parsed = Encode(*tokenizer, "a tree</s><s>b<|turn|>", {.parse_special = true});
    CHECK(parsed[parsed.size() - 1] == *tokenizer->PieceToId("<|turn|>"));
    CHECK(std::count(parsed.begin(), parsed.end(), tokenizer->eos_id() >= 0 ? tokenizer->eos_id() : 2) == 1);
    CHECK(tokenizer->Decode(parsed).find('<') == std::string::npos);
  }
}

TEST_CASE("a SentencePiece root has its dummy prefix once, also behind a special token", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("sp_bpe");
  const EncodeOptions parse = {.parse_special = true};
  const Ids written = Encode(*tokenizer, "<s>tree", parse);
  CHECK(written == Encode(*tokenizer, "tree", {.add_bos = true}));
  CHECK(Pieces(*tokenizer, "e</s>e", parse) == "|▁e|</s>|e|");
  CHECK(Pieces(*tokenizer, "</s>e", {.at_start = false, .parse_special = true}) == "|</s>|e|");
}

TEST_CASE("added tokens of tokenizer.json take the white space that their flags say", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("bpe_prepend");
  const EncodeOptions parse = {.at_start = false, .parse_special = true};
  CHECK(Pieces(*tokenizer, "e<|turn|>  e", parse) == "|e|<|turn|>|e|");
  CHECK(Pieces(*tokenizer, "e  [TREE]e", parse) == "|e|[TREE]|e|");
  // Tokens that are not special are found without being asked for.
  CHECK(Pieces(*tokenizer, "e[TREE]e", {.at_start = false}) == "|e|[TREE]|e|");
}

TEST_CASE("invalid UTF-8 is refused by the name of the field", "[tokenizer]") {
  for (const std::string& name : test::OwnTokenizers()) {
    const auto tokenizer = test::LoadOwn(name);
    for (const std::string bad : {"ab\xFF", "ab\xE2\x82", "ab\xED\xA0\x80", "ab\xC0\x80"}) {
      const auto ids = tokenizer->Encode(bad);
      REQUIRE(!ids.ok());
      CHECK(ids.error().code == ErrorCode::kInvalidArgument);
      CHECK(ids.error().field == "text");
      CHECK(ids.error().message == "is not valid UTF-8 at byte 2");
    }
  }
}

TEST_CASE("text that is too long is refused", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("bpe_metaspace");
  const auto ids = tokenizer->Encode(std::string(Tokenizer::kMaxTextBytes + 1, 'a'));
  REQUIRE(!ids.ok());
  CHECK(ids.error().code == ErrorCode::kInvalidArgument);
  CHECK(ids.error().field == "text");
}

TEST_CASE("a beginning-of-sequence token that does not exist cannot be added", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("bpe_partial");
  REQUIRE(tokenizer->bos_id() == -1);
  CHECK(!tokenizer->add_bos_by_default());
  const auto ids = tokenizer->Encode("a", {.add_bos = true});
  REQUIRE(!ids.ok());
  CHECK(ids.error().field == "add_bos");
}

TEST_CASE("every id has a piece that leads back to it", "[tokenizer]") {
  for (const std::string& name : test::OwnTokenizers()) {
    const auto tokenizer = test::LoadOwn(name);
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      INFO(name << " " << id);
      REQUIRE(tokenizer->PieceToId(tokenizer->Piece(id)) == id);
    }
    CHECK(!tokenizer->PieceToId("no such piece").has_value());
    CHECK(!tokenizer->IsValid(-1));
    CHECK(!tokenizer->IsValid(tokenizer->vocab_size()));
    CHECK(tokenizer->unk_id() == (name.starts_with("byte_level") ? -1 : 0));
  }
}

TEST_CASE("a megabyte of text is encoded and comes back", "[tokenizer]") {
  std::string text;
  while (text.size() < (1u << 20)) text += "One trunk feeds many branches; Äste, ветви, 枝 😀.\n";
  for (const std::string name : {"sp_bpe", "bpe_prepend", "bpe_metaspace", "byte_level", "byte_level_gpt2"}) {
    const auto tokenizer = test::LoadOwn(name);
    const Ids ids = Encode(*tokenizer, text);
    CHECK(ids.size() < text.size());
    CHECK((tokenizer->Decode(ids) == text));
  }
}

// Word by word or all at once, nothing here may take more than n log n: quadratic time would be hours.
TEST_CASE("a megabyte of one character is encoded by a byte-level tokenizer and comes back", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("byte_level");
  for (const std::string unit : {" ", "a", "7", " \n", "!", "枝", "\u00A0"}) {
    std::string text;
    while (text.size() < (1u << 20)) text += unit;
    text += "x";
    INFO("\"" << unit << "\"");
    CHECK((tokenizer->Decode(Encode(*tokenizer, text)) == text));
  }
}

TEST_CASE("byte-level text below the root is encoded as it stands", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("byte_level");
  CHECK(tokenizer->add_bos_by_default());
  CHECK(tokenizer->Piece(tokenizer->bos_id()) == "<s>");
  for (const std::string text : {"tree", " tree", "\n tree", "<s>枝 枝 needle"}) {
    const Ids root = Encode(*tokenizer, text);
    CHECK(root == Encode(*tokenizer, text, {.at_start = false}));
    CHECK(tokenizer->Decode(root) == tokenizer->DecodeContinuation(root));
  }
  CHECK(!test::LoadOwn("byte_level_gpt2")->add_bos_by_default());
}

TEST_CASE("a word of the vocabulary is one token where merges are ignored", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("byte_level");
  CHECK(Pieces(*tokenizer, "a Springkraut") == "|a|ĠSpringkraut|");
  CHECK(!Pieces(*tokenizer, "a Springkrauts").ends_with("|ĠSpringkraut|s|"));
  const auto ids = tokenizer->Encode("Größe <|turn|>  e", {.parse_special = true});
  REQUIRE(ids.ok());
  CHECK(Pieces(*tokenizer, "Größe <|turn|>  e", {.parse_special = true}) == "|Größe|Ġ|<|turn|>|e|");
}

TEST_CASE("many threads encode with one tokenizer", "[tokenizer]") {
  for (const std::string name : {"sp_bpe", "bpe_prepend", "byte_level"}) {
    const auto tokenizer = test::LoadOwn(name);
    const std::string text = "One trunk feeds many branches; prune the weak ones early. 枝 😀";
    const Ids expected = Encode(*tokenizer, text);
    std::vector<int> wrong(4, 0);
    std::vector<std::thread> threads;
    for (int& count : wrong) {
      threads.emplace_back([&tokenizer, &text, &expected, &count] {
        for (int i = 0; i < 200; ++i) {
          const auto ids = tokenizer->Encode(text);
          count += ids.ok() && *ids == expected && tokenizer->Decode(*ids) == text ? 0 : 1;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == std::vector<int>(4, 0));
  }
}

TEST_CASE("tokenizer_config.json names the tokens of a sequence", "[tokenizer]") {
  for (const std::string file : {"bpe_prepend/tokenizer.json", "sp_bpe/tokenizer.model"}) {
    const test::TempFolder folder;
    const std::filesystem::path source = test::Data() / file;
    folder.Write(source.filename().string(), test::ReadBytes(source));
    folder.Write("tokenizer_config.json",
                 R"({"bos_token": {"content": "<|turn|>"}, "eos_token": "</s>", "add_bos_token": false})");
    const auto tokenizer = LoadTokenizer(folder.path());
    if (!tokenizer) FAIL(tokenizer.error().ToString());
    CHECK((*tokenizer)->Piece((*tokenizer)->bos_id()) == "<|turn|>");
    CHECK((*tokenizer)->Piece((*tokenizer)->eos_id()) == "</s>");
    CHECK(!(*tokenizer)->add_bos_by_default());
  }
}

TEST_CASE("special_tokens_map.json fills in what tokenizer_config.json leaves out", "[tokenizer]") {
  const test::TempFolder folder;
  folder.Write("tokenizer.json", test::ReadBytes(test::Data() / "bpe_prepend/tokenizer.json"));
  folder.Write("tokenizer_config.json", R"({"eos_token": "<|turn|>"})");
  folder.Write("special_tokens_map.json", R"({"bos_token": "<s>", "eos_token": "</s>"})");
  const auto tokenizer = LoadTokenizer(folder.path());
  if (!tokenizer) FAIL(tokenizer.error().ToString());
  CHECK((*tokenizer)->Piece((*tokenizer)->bos_id()) == "<s>");
  CHECK((*tokenizer)->Piece((*tokenizer)->eos_id()) == "<|turn|>");
}

TEST_CASE("tokenizer.model is preferred to tokenizer.json and takes the tokens that files add",
          "[tokenizer]") {
  const test::TempFolder folder;
  folder.Write("tokenizer.model", test::ReadBytes(test::Data() / "sp_bpe/tokenizer.model"));
  folder.Write("tokenizer.json", R"({"model": {"type": "Unigram"}})");
  const int32_t size = test::LoadOwn("sp_bpe")->vocab_size();
  const std::string first = std::to_string(size);
  const std::string second = std::to_string(size + 1);
  folder.Write("tokenizer_config.json",
               R"({"eos_token": "<|end|>", "added_tokens_decoder": {
                 "0": {"content": "<unk>", "special": true}, ")" +
                   first + R"(": {"content": "<|end|>", "special": true}, ")" + second +
                   R"(": {"content": "espalier", "special": false}}})");
  const auto loaded = LoadTokenizer(folder.path());
  if (!loaded) FAIL(loaded.error().ToString());
  const Tokenizer& tokenizer = **loaded;
  CHECK(tokenizer.vocab_size() == size + 2);
  CHECK(tokenizer.eos_id() == size);
  const Ids ids = Encode(tokenizer, "e espalier e<|end|>", {.parse_special = true});
  CHECK(Pieces(tokenizer, "e espalier e<|end|>", {.parse_special = true}).ends_with("|espalier|▁e|<|end|>|"));
  CHECK(tokenizer.Decode(ids) == "e espalier e");
  CHECK(!HasSpecial(tokenizer, Encode(tokenizer, "e<|end|>")));
}

using Files = std::vector<std::pair<std::string, std::string>>;  // Name and content.

// A folder with the model of sp_bpe and other files next to it.
class SpFolder {
 public:
  const std::filesystem::path& path() const { return folder_.path(); }
  explicit SpFolder(const Files& files) {
    folder_.Write("tokenizer.model", test::ReadBytes(test::Data() / "sp_bpe/tokenizer.model"));
    for (const auto& [name, bytes] : files) folder_.Write(name, bytes);
  }
  std::unique_ptr<Tokenizer> Load() const {
    auto tokenizer = LoadTokenizer(folder_.path());
    if (!tokenizer) FAIL(tokenizer.error().ToString());
    return std::move(*tokenizer);
  }
  Error LoadError() const {
    const auto tokenizer = LoadTokenizer(folder_.path());
    REQUIRE(!tokenizer.ok());
    return tokenizer.error();
  }
  std::string Path(const std::string& file) const { return (folder_.path() / file).string(); }

 private:
  test::TempFolder folder_;
};

TEST_CASE("tokens of a chat that stand in one file alone are tokens", "[tokenizer]") {
  const int32_t size = test::LoadOwn("sp_bpe")->vocab_size();
  const std::string end = std::to_string(size);
  const std::string start = std::to_string(size + 1);
  const std::string decoder = R"({"added_tokens_decoder": {")" + end +
                              R"(": {"content": "<|im_end|>", "special": true},
      ")" + start + R"(": {"content": "<|im_start|>", "special": true}}})";
  const std::string list = R"({"added_tokens": [{"id": )" + end +
                           R"(, "content": "<|im_end|>", "special": true},
      {"id": )" + start + R"(, "content": "<|im_start|>", "special": true}]})";
  const std::string map = R"({"<|im_end|>": )" + end + R"(, "<|im_start|>": )" + start + "}";
  for (const auto& [file, bytes] : {std::pair{"tokenizer_config.json", decoder},
                                    std::pair{"tokenizer.json", list}, std::pair{"added_tokens.json", map}}) {
    INFO(file);
    const auto tokenizer = SpFolder(Files{{file, bytes}}).Load();
    const Ids ids = Encode(*tokenizer, "<|im_start|>e<|im_end|>", {.parse_special = true});
    REQUIRE(ids.size() >= 3);
    CHECK(ids.front() == size + 1);
    CHECK(ids.back() == size);
  }
  const auto named =
      SpFolder(Files{{"added_tokens.json", map}, {"tokenizer_config.json", R"({"eos_token": "<|im_end|>"})"}})
          .Load();
  CHECK(named->eos_id() == size);
  CHECK(named->IsSpecial(size));
  CHECK(!named->IsSpecial(size + 1));
}

TEST_CASE("files that contradict each other are named", "[tokenizer]") {
  const SpFolder two_ids(
      Files{{"tokenizer_config.json", R"({"added_tokens_decoder": {"800": {"content": "<|a|>"}}})"},
            {"added_tokens.json", R"({"<|a|>": 801})"}});
  CHECK(two_ids.LoadError().field == two_ids.Path("added_tokens.json"));
  CHECK(two_ids.LoadError().message == "\"<|a|>\" has the id 801, and 800 in tokenizer_config.json");
  const SpFolder one_id(
      Files{{"tokenizer_config.json", R"({"added_tokens_decoder": {"800": {"content": "<|a|>"}}})"},
            {"tokenizer.json", R"({"added_tokens": [{"id": 800, "content": "<|b|>"}]})"}});
  CHECK(one_id.LoadError().field == one_id.Path("tokenizer.json"));
  CHECK(one_id.LoadError().message ==
        "added_tokens: \"<|b|>\" has the id 800, which is that of \"<|a|>\" in tokenizer_config.json");
  const SpFolder model(Files{{"added_tokens.json", R"({"<|a|>": 5})"}});
  CHECK(model.LoadError().field == model.Path("added_tokens.json"));
  CHECK(model.LoadError().message.ends_with(" in tokenizer.model"));
  const SpFolder damaged(Files{{"tokenizer.json", "not even JSON"}});
  CHECK(damaged.LoadError().field == damaged.Path("tokenizer.json"));

  const test::TempFolder folder;
  folder.Write("tokenizer.json", test::ReadBytes(test::Data() / "bpe_prepend/tokenizer.json"));
  folder.Write("added_tokens.json", R"({"<|turn|>": 7})");
  const auto tokenizer = LoadTokenizer(folder.path());
  REQUIRE(!tokenizer.ok());
  CHECK(tokenizer.error().field == (folder.path() / "added_tokens.json").string());
}

TEST_CASE("ids that no token has are skipped", "[tokenizer]") {
  const int32_t size = test::LoadOwn("sp_bpe")->vocab_size();
  const auto tokenizer =
      SpFolder(Files{{"added_tokens.json", "{\"<|a|>\": " + std::to_string(size + 5) + "}"}}).Load();
  CHECK(tokenizer->vocab_size() == size + 6);
  CHECK(tokenizer->Piece(size + 2).empty());
  CHECK(!tokenizer->PieceToId("").has_value());
  CHECK(tokenizer->Decode(Ids{size + 2, size + 5, size + 100}) == "<|a|>");
  CHECK(tokenizer->DecodeContinuation(Ids{size, size + 1}).empty());
}

TEST_CASE("an added token that the model has no row for is left out", "[tokenizer]") {
  const int32_t size = test::LoadOwn("sp_bpe")->vocab_size();
  const SpFolder folder(Files{{"added_tokens.json", "{\"[PAD]\": " + std::to_string(size) + "}"}});
  CHECK(folder.Load()->vocab_size() == size + 1);
  const auto limited = LoadTokenizer(folder.path(), size);
  REQUIRE(limited.ok());
  CHECK((*limited)->vocab_size() == size);
}

TEST_CASE("legacy says what follows a special token", "[tokenizer]") {
  const auto pieces = [](const std::string& config, const std::string& text) {
    return Pieces(*SpFolder(Files{{"tokenizer_config.json", config}}).Load(), text, {.parse_special = true});
  };
  CHECK(pieces("{}", "e</s>e") == "|▁e|</s>|e|");
  CHECK(pieces("{}", "</s>e") == "|</s>|e|");
  CHECK(pieces(R"({"legacy": true})", "e</s>e") == "|▁e|</s>|▁e|");
  CHECK(pieces(R"({"legacy": true})", "</s> e") == "|</s>|▁e|");
  CHECK(pieces(R"({"legacy": false})", " e</s> e") == "|▁e|</s>|▁e|");
  CHECK(pieces(R"({"add_prefix_space": false})", "e</s>e") == "|e|</s>|e|");
  const auto legacy = SpFolder(Files{{"tokenizer_config.json", R"({"legacy": true})"}}).Load();
  CHECK(Pieces(*legacy, "e</s>e", {.at_start = false, .parse_special = true}) == "|e|</s>|e|");
}

TEST_CASE("text that grows without bound when it is normalised is refused", "[tokenizer]") {
  auto document = nlohmann::json::parse(test::ReadBytes(test::Data() / "bpe_prepend/tokenizer.json"));
  nlohmann::json steps = nlohmann::json::array();
  for (int i = 0; i < 40; ++i)
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  const test::TempFolder folder;
  folder.Write("tokenizer.json", document.dump());
  const auto tokenizer = LoadTokenizer(folder.path());
  if (!tokenizer) FAIL(tokenizer.error().ToString());
  const auto ids = (*tokenizer)->Encode("aaaa");
  REQUIRE(!ids.ok());
  CHECK(ids.error().field == "text");
  CHECK(ids.error().message.starts_with("becomes longer than "));
}

}  // namespace
}  // namespace espalier
