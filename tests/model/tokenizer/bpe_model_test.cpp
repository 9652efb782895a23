#include "model/tokenizer/bpe_model.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "model/tokenizer/utf8.h"
#include "tests/model/tokenizer/tokenizer_inputs.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using Merges = std::vector<std::pair<std::string, std::string>>;

BpeModel MakeModel(const std::vector<std::string>& vocab, const Merges& merges,
                   const BpeOptions& options = {}) {
  auto model = BpeModel::Create(vocab, merges, options);
  if (!model) FAIL(model.error().ToString());
  return std::move(*model);
}

// Merges the leftmost pair of lowest rank until there is none: the definition, in quadratic time.
std::vector<int32_t> MergeByDefinition(const std::vector<std::string>& vocab, const Merges& merges,
                                       std::string_view word) {
  std::map<std::string, int32_t> ids;
  for (size_t i = 0; i < vocab.size(); ++i) ids[vocab[i]] = static_cast<int32_t>(i);
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  while (true) {
    size_t best_rank = merges.size();
    size_t best_at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto pair = std::pair(parts[i], parts[i + 1]);
      const auto rank = static_cast<size_t>(std::find(merges.begin(), merges.end(), pair) - merges.begin());
      if (rank < best_rank) {
        best_rank = rank;
        best_at = i;
      }
    }
    if (best_rank == merges.size()) break;
    parts[best_at] += parts[best_at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
  std::vector<int32_t> out;
  for (const std::string& part : parts) out.push_back(ids.at(part));
  return out;
}

TEST_CASE("merging agrees with its definition on random vocabularies", "[tokenizer]") {
  const uint64_t seed = 11;
  INFO("seed " << seed);
  test::SplitMix64 rng(seed);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> vocab = {"a", "b", "c"};
    Merges merges;
    for (int i = 0; i < 25; ++i) {
      const std::string left = vocab[rng.Below(vocab.size())];
      const std::string right = vocab[rng.Below(vocab.size())];
      // One merge for each token: with two, the definition above does not say which of them is stale.
      if (std::find(vocab.begin(), vocab.end(), left + right) != vocab.end()) continue;
      vocab.push_back(left + right);
      merges.emplace_back(left, right);
    }
    const BpeModel model = MakeModel(vocab, merges);
    for (int i = 0; i < 30; ++i) {
      std::string word;
      const size_t letters = rng.Below(40);
      for (size_t k = 0; k < letters; ++k) word += static_cast<char>('a' + rng.Below(3));
      std::vector<int32_t> ids;
      model.Encode(word, &ids);
      INFO("round " << round << ", word " << word);
      REQUIRE(ids == MergeByDefinition(vocab, merges, word));
    }
  }
}

TEST_CASE("a text of a megabyte that is one word takes linearly many steps", "[tokenizer]") {
  // Doubling merges over one letter and over two: the most merges and the most candidates that go stale.
  std::vector<std::string> vocab = {"a", "b"};
  Merges merges;
  for (size_t length = 1; length < 256; length *= 2) {
    for (const char letter : {'a', 'b'}) {
      merges.emplace_back(std::string(length, letter), std::string(length, letter));
      vocab.push_back(std::string(2 * length, letter));
    }
  }
  vocab.push_back("ab");
  merges.emplace_back("a", "b");
  const BpeModel model = MakeModel(vocab, merges);
  test::SplitMix64 rng(5);
  for (const bool one_letter : {true, false}) {
    std::string word(1 << 20, 'a');
    if (!one_letter) {
      for (char& c : word) c = rng.Below(8) == 0 ? 'b' : 'a';
    }
    BpeCounters counters;
    std::vector<int32_t> ids;
    model.Encode(word, &ids, &counters);
    CHECK(counters.symbols == word.size());
    CHECK(counters.merges < counters.symbols);
    CHECK(counters.merges + ids.size() == counters.symbols);
    CHECK(counters.queue_pops <= counters.symbols + 2 * counters.merges);
    std::string joined;
    for (const int32_t id : ids) joined += vocab[static_cast<size_t>(id)];
    CHECK(joined == word);
    std::printf("1 MiB in one word: %llu merges, %llu candidates\n",
                static_cast<unsigned long long>(counters.merges),
                static_cast<unsigned long long>(counters.queue_pops));
  }
}

TEST_CASE("characters outside the vocabulary become bytes, or the unknown token", "[tokenizer]") {
  const std::vector<std::string> vocab = {"<unk>", "a", "<0xC3>", "<0xA9>"};
  const auto encode = [&](const BpeOptions& options, std::string_view text) {
    std::vector<int32_t> ids;
    MakeModel(vocab, {}, options).Encode(text, &ids);
    return ids;
  };
  const BpeOptions bytes = {.unk_token = "<unk>", .byte_fallback = true};
  CHECK(encode(bytes, "aé") == std::vector<int32_t>{1, 2, 3});
  CHECK(encode(bytes, "aüa") == std::vector<int32_t>{1, 0, 1});
  CHECK(encode(bytes, "üü") == std::vector<int32_t>{0, 0});
  CHECK(encode({.unk_token = "<unk>", .fuse_unk = true}, "üéa") == std::vector<int32_t>{0, 1});
  CHECK(encode({}, "üaé") == std::vector<int32_t>{1});
}

TEST_CASE("with ignore_merges a word of the vocabulary is one token", "[tokenizer]") {
  const std::vector<std::string> vocab = {"a", "b", "abab", "ab"};
  const Merges merges = {{"a", "b"}};
  std::vector<int32_t> ids;
  MakeModel(vocab, merges).Encode("abab", &ids);
  MakeModel(vocab, merges, {.unk_token = "", .ignore_merges = true}).Encode("abab", &ids);
  CHECK(ids == std::vector<int32_t>{3, 3, 2});
}

TEST_CASE("a merge of unknown tokens is refused by its place", "[tokenizer]") {
  const auto model = BpeModel::Create({"a", "b", "ab"}, {{"a", "b"}, {"ab", "c"}}, {});
  REQUIRE(!model.ok());
  CHECK(model.error().message == "model.merges[1]: token \"c\" is not in the vocabulary");
}

}  // namespace
}  // namespace espalier
