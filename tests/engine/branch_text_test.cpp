#include "engine/branch_text.h"

#include <random>
#include <string>
#include <vector>

#include "model/tokenizer/utf8.h"
#include "tests/engine/fakes/fake_tokenizer.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using Strings = std::vector<std::string>;

constexpr int32_t kVocab = 24;

std::shared_ptr<const Strings> Stops(Strings strings) {
  return std::make_shared<const Strings>(std::move(strings));
}

int32_t Id(const Tokenizer& tokenizer, const std::string& piece) {
  const auto id = tokenizer.PieceToId(piece);
  REQUIRE(id.has_value());
  return *id;
}

TEST_CASE("text that may begin a stop string is held back until it is decided") {
  const auto tokenizer = test::MakeFakeTokenizer(kVocab);
  BranchText text(*tokenizer, false, Stops({"abb"}));
  CHECK(text.Append(Id(*tokenizer, "c")).text == "c");
  CHECK(text.Append(Id(*tokenizer, "ab")).text.empty());
  CHECK(text.Append(Id(*tokenizer, "a")).text == "ab");
  CHECK(text.Finish() == "a");
}

TEST_CASE("the text of a branch ends before the stop string") {
  const auto tokenizer = test::MakeFakeTokenizer(kVocab);
  BranchText text(*tokenizer, false, Stops({"bab"}));
  CHECK(text.Append(Id(*tokenizer, "aab")).text == "aa");
  const TextPiece last = text.Append(Id(*tokenizer, "abc"));
  CHECK(last.stop_string_found);
  CHECK(last.text.empty());
  CHECK(text.Finish().empty());
}

TEST_CASE("of two stop strings that one token completes the one that begins first counts") {
  const auto tokenizer = test::MakeFakeTokenizer(kVocab);
  BranchText text(*tokenizer, false, Stops({"c", "bc"}));
  const TextPiece piece = text.Append(Id(*tokenizer, "abc"));
  CHECK(piece.stop_string_found);
  CHECK(piece.text == "a");
}

TEST_CASE("half a character is held back, and becomes U+FFFD where its branch ends") {
  const auto tokenizer = test::MakeFakeTokenizer(kVocab);
  BranchText text(*tokenizer, false, nullptr);
  CHECK(text.Append(Id(*tokenizer, "byte \xE2")).text.empty());
  CHECK(text.Append(Id(*tokenizer, "byte \x82")).text.empty());
  BranchText fork = text;
  CHECK(text.Append(Id(*tokenizer, "byte \xAC")).text == "\xE2\x82\xAC");
  CHECK(fork.Finish() == kReplacementCharacter);
}

TEST_CASE("without a tokenizer there is no text") {
  BranchText text;
  const TextPiece piece = text.Append(5);
  CHECK(piece.text.empty());
  CHECK_FALSE(piece.stop_string_found);
  CHECK(text.Finish().empty());
}

Strings RandomStops(std::mt19937_64* random) {
  const Strings alphabet = {"a", "b", "c", " ", "\n", "\xC3\xA9", "\xE2\x82\xAC"};
  Strings stops((*random)() % 4);
  for (std::string& stop : stops) {
    for (size_t length = 1 + (*random)() % 4; length > 0; --length)
      stop += alphabet[(*random)() % alphabet.size()];
  }
  return stops;
}

TEST_CASE("pieces add up to what decoding everything after each token gives") {
  const auto tokenizer = test::MakeFakeTokenizer(kVocab);
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  int32_t stopped = 0;
  for (int32_t round = 0; round < 20000; ++round) {
    const Strings stops = RandomStops(&random);
    std::vector<int32_t> ids(random() % 14);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
    const test::NaiveText want = test::TextOf(*tokenizer, ids, false, stops);

    BranchText text(*tokenizer, false, Stops(stops));
    std::string got;
    int32_t tokens = 0;
    bool found = false;
    while (tokens < static_cast<int32_t>(ids.size()) && !found) {
      if (random() % 4 == 0) text = BranchText(text);
      const TextPiece piece = text.Append(ids[static_cast<size_t>(tokens++)]);
      if (FindInvalidUtf8(piece.text) != std::string_view::npos) FAIL("half a character in round " << round);
      got += piece.text;
      found = piece.stop_string_found;
    }
    got += text.Finish();
    if (found != want.stopped || tokens != want.tokens || got != want.text) {
      FAIL("round " << round << ": \"" << got << "\", expected \"" << want.text << "\"");
    }
    stopped += found ? 1 : 0;
  }
  CHECK(stopped > 1000);
}

}  // namespace
}  // namespace espalier
