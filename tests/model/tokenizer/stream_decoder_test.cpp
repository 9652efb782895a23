#include "model/tokenizer/stream_decoder.h"

#include <string>
#include <vector>

#include "model/tokenizer/utf8.h"
#include "tests/model/tokenizer/tokenizer_inputs.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

constexpr size_t kNone = std::string_view::npos;

struct Streamed {
  std::string text;
  bool always_whole = true;  // No piece ever held a part of a character.
};

Streamed Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool at_start) {
  StreamDecoder stream(tokenizer, at_start);
  Streamed out;
  const auto take = [&out](const std::string& piece) {
    out.always_whole = out.always_whole && FindInvalidUtf8(piece) == kNone;
    out.text += piece;
  };
  for (const int32_t id : ids) take(stream.Push(id));
  take(stream.Finish());
  return out;
}

int32_t Id(const Tokenizer& tokenizer, std::string_view piece) {
  const auto id = tokenizer.PieceToId(piece);
  REQUIRE(id.has_value());
  return *id;
}

// A run of U+FFFD as one: how many stand for a broken run of bytes differs by design (see StreamDecoder).
std::string JoinReplacements(std::string text) {
  const std::string one(kReplacementCharacter);
  while (text.find(one + one) != std::string::npos) text = ReplaceAll(text, one + one, one);
  return text;
}

TEST_CASE("a stream of encoded text gives what decoding the whole gives", "[tokenizer]") {
  const auto strings = test::ReadStrings();
  for (const std::string& name : test::OwnTokenizers()) {
    const auto tokenizer = test::LoadOwn(name);
    size_t differ = 0;
    for (const std::string& text : strings) {
      const auto ids = tokenizer->Encode(text);
      REQUIRE(ids.ok());
      const Streamed streamed = Stream(*tokenizer, *ids, /*at_start=*/true);
      differ += streamed.always_whole && streamed.text == tokenizer->Decode(*ids) ? 0 : 1;
    }
    INFO(name);
    CHECK(differ == 0);
  }
}

TEST_CASE("a stream of random SentencePiece ids differs from the whole in the last character only",
          "[tokenizer]") {
  for (const std::string name : {"sp_bpe", "sp_unigram"}) {
    const auto tokenizer = test::LoadOwn(name);
    const auto byte_ids = test::ByteIds(*tokenizer);
    for (uint64_t seed = 0; seed < 4000; ++seed) {
      const auto ids = test::RandomIds(seed, *tokenizer, byte_ids);
      const Streamed streamed = Stream(*tokenizer, ids, /*at_start=*/true);
      std::string whole = tokenizer->Decode(ids);
      INFO(name << ", seed " << seed);
      REQUIRE(streamed.always_whole);
      // One U+FFFD at the end of the stream stands for one to three in the whole.
      while (whole.size() > streamed.text.size() && whole.ends_with(kReplacementCharacter)) {
        whole.resize(whole.size() - kReplacementCharacter.size());
      }
      REQUIRE(streamed.text == whole);
    }
  }
}

TEST_CASE("a stream of random tokenizer.json ids keeps the characters that are whole", "[tokenizer]") {
  for (const std::string name : {"bpe_prepend", "bpe_metaspace", "bpe_partial"}) {
    const auto tokenizer = test::LoadOwn(name);
    const auto byte_ids = test::ByteIds(*tokenizer);
    size_t same = 0;
    for (uint64_t seed = 0; seed < 4000; ++seed) {
      const auto ids = test::RandomIds(seed, *tokenizer, byte_ids);
      const Streamed streamed = Stream(*tokenizer, ids, /*at_start=*/true);
      // What the package gives where each run of bytes is text; where one is not, the whole of it is lost
      // there.
      std::string bytes;
      for (const int32_t id : ids) bytes += tokenizer->Info(id).text;
      std::string expected;
      AppendLossy(bytes, &expected);
      if (expected.starts_with(' ')) expected.erase(0, 1);
      INFO(name << ", seed " << seed);
      REQUIRE(streamed.always_whole);
      REQUIRE(JoinReplacements(streamed.text) == JoinReplacements(expected));
      const std::string whole = tokenizer->Decode(ids);
      if (whole.find(kReplacementCharacter) == std::string::npos) REQUIRE(streamed.text == whole);
      same += streamed.text == whole ? 1 : 0;
    }
    CHECK(same > 500);
  }
}

TEST_CASE("a stream of random byte-level ids is exactly the whole", "[tokenizer]") {
  for (const std::string name : {"byte_level", "byte_level_gpt2"}) {
    const auto tokenizer = test::LoadOwn(name);
    const auto byte_ids = test::ByteIds(*tokenizer);
    REQUIRE(byte_ids.size() == 256);
    size_t replaced = 0;
    for (uint64_t seed = 0; seed < 4000; ++seed) {
      const auto ids = test::RandomIds(seed, *tokenizer, byte_ids);
      const Streamed streamed = Stream(*tokenizer, ids, /*at_start=*/true);
      INFO(name << ", seed " << seed);
      REQUIRE(streamed.always_whole);
      REQUIRE(streamed.text == tokenizer->Decode(ids));
      REQUIRE(streamed.text == tokenizer->DecodeContinuation(ids));
      replaced += streamed.text.find(kReplacementCharacter) != std::string::npos ? 1 : 0;
    }
    CHECK(replaced > 1000);
    CHECK(replaced < 4000);
  }
}

TEST_CASE("byte-level tokens complete each other's characters", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("byte_level");
  const auto bytes = test::ByteIds(*tokenizer);
  const auto text = [&](const std::vector<int>& values, bool finish) {
    StreamDecoder stream(*tokenizer, /*at_start=*/false);
    std::string out;
    for (const int value : values) out += stream.Push(bytes[static_cast<size_t>(value)]);
    return finish ? out + stream.Finish() : out;
  };
  CHECK(text({0xF0, 0x9F, 0x98}, false) == "");
  CHECK(text({0xF0, 0x9F, 0x98, 0x80}, false) == "😀");
  CHECK(text({0xF0, 0x9F, 0x98}, true) == "\uFFFD");
  CHECK(text({0xF0, 0x9F, 0x41}, false) == "\uFFFDA");
  CHECK(text({0xF0, 0x9F, 0xC3, 0xA9}, false) == "\uFFFDé");
  CHECK(text({0xFF, 0x80}, false) == "\uFFFD\uFFFD");
  CHECK(text({0xE0, 0x80}, false) == "\uFFFD\uFFFD");
  // A special token is as if it were not there.
  StreamDecoder stream(*tokenizer, /*at_start=*/true);
  CHECK(stream.Push(bytes[0xC3]) == "");
  CHECK(stream.Push(Id(*tokenizer, "</s>")) == "");
  CHECK(stream.Push(bytes[0xA9]) == "é");
}

TEST_CASE("bytes wait until their character is complete", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("sp_bpe");
  StreamDecoder stream(*tokenizer, /*at_start=*/false);
  CHECK(stream.Push(Id(*tokenizer, "<0xF0>")) == "");
  CHECK(stream.Push(Id(*tokenizer, "<0x9F>")) == "");
  CHECK(stream.Push(Id(*tokenizer, "<0x98>")) == "");
  CHECK(stream.Push(Id(*tokenizer, "<0x80>")) == "😀");
  CHECK(stream.Finish() == "");
}

TEST_CASE("an incomplete last character is one replacement character", "[tokenizer]") {
  for (const std::string name : {"sp_bpe", "bpe_prepend"}) {
    const auto tokenizer = test::LoadOwn(name);
    StreamDecoder stream(*tokenizer, /*at_start=*/false);
    CHECK(stream.Push(Id(*tokenizer, "<0xF0>")) == "");
    CHECK(stream.Push(Id(*tokenizer, "<0x9F>")) == "");
    CHECK(stream.Push(Id(*tokenizer, "<0x98>")) == "");
    CHECK(stream.Finish() == "\uFFFD");
    CHECK(stream.Finish() == "");
  }
}

TEST_CASE("bytes that no continuation can save come out at once", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("sp_bpe");
  StreamDecoder stream(*tokenizer, /*at_start=*/false);
  CHECK(stream.Push(Id(*tokenizer, "<0xFF>")) == "\uFFFD");
  CHECK(stream.Push(Id(*tokenizer, "<0xE2>")) == "");
  CHECK(stream.Push(Id(*tokenizer, "<0x41>")) == "\uFFFDA");
  CHECK(stream.Push(Id(*tokenizer, "<0xC3>")) == "");
  CHECK(stream.Push(Id(*tokenizer, "e")) == "\uFFFDe");
}

TEST_CASE("a forked branch keeps the bytes that wait", "[tokenizer]") {
  const auto tokenizer = test::LoadOwn("sp_bpe");
  StreamDecoder stream(*tokenizer, /*at_start=*/false);
  CHECK(stream.Push(Id(*tokenizer, "<0xC3>")) == "");
  StreamDecoder fork = stream;
  CHECK(stream.Push(Id(*tokenizer, "<0xA9>")) == "é");
  CHECK(fork.Push(Id(*tokenizer, "<0xBC>")) == "ü");
  CHECK(sizeof(StreamDecoder) <= 32);
}

TEST_CASE("the dummy prefix is removed at the start of a sequence and nowhere else", "[tokenizer]") {
  for (const std::string name : {"sp_bpe", "bpe_prepend", "bpe_metaspace"}) {
    const auto tokenizer = test::LoadOwn(name);
    const int32_t space = Id(*tokenizer, "▁");
    const int32_t e = Id(*tokenizer, "e");
    INFO(name);
    CHECK(Stream(*tokenizer, {space, e, space, e}, true).text == "e e");
    CHECK(Stream(*tokenizer, {space, space, e}, true).text == " e");
    CHECK(Stream(*tokenizer, {space, e, space, e}, false).text == " e e");
    CHECK(tokenizer->DecodeContinuation(std::vector<int32_t>{space, e}) == " e");
    CHECK(tokenizer->Decode(std::vector<int32_t>{space, e}) == "e");
    // A special token before the text changes nothing.
    CHECK(Stream(*tokenizer, {tokenizer->bos_id(), space, e}, true).text == "e");
  }
}

TEST_CASE("ids outside the vocabulary are passed over", "[tokenizer]") {
  for (const std::string& name : test::OwnTokenizers()) {
    const auto tokenizer = test::LoadOwn(name);
    const std::vector<int32_t> ids = {-1, tokenizer->vocab_size(), 1 << 30};
    CHECK(Stream(*tokenizer, ids, true).text == "");
    CHECK(tokenizer->Decode(ids) == "");
  }
}

}  // namespace
}  // namespace espalier
