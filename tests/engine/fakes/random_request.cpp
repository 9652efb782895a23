#include "tests/engine/fakes/random_request.h"

#include <algorithm>
#include <string>
#include <utility>

namespace espalier::test {
namespace {

class Generator {
 public:
  Generator(std::mt19937_64* random, const EngineLimits& limits, bool with_text)
      : random_(*random), limits_(limits), with_text_(with_text) {}

  TreeRequest Request() {
    TreeRequest request;
    request.seed = random_() % 5;
    request.cache_bypass = Chance(10);
    if (Chance(15)) request.cache_namespace = "other";
    request.nodes.push_back({"n0", -1, GivenSpec{Prompt()}});
    const bool mostly_given = Chance(30);
    const size_t nodes = 1 + Below(mostly_given ? 16 : 7);
    while (request.nodes.size() < nodes) {
      const auto parent = static_cast<int32_t>(Below(request.nodes.size()));
      request.nodes.push_back({"n" + std::to_string(request.nodes.size()), parent, GivenSpec{}});
      auto& content = request.nodes.back().content;
      const uint64_t kind = mostly_given && Chance(70) ? 5 : Below(10);
      if (kind < 5) {
        content = Generate();
      } else if (kind < 8) {
        content = Given();
      } else {
        content = Select();
      }
    }
    return request;
  }

 private:
  uint64_t Below(uint64_t limit) { return random_() % limit; }
  bool Chance(uint64_t percent) { return Below(100) < percent; }
  int32_t Token() { return static_cast<int32_t>(Below(static_cast<uint64_t>(limits_.vocab_size))); }
  template <typename T>
  T Pick(std::initializer_list<T> values) {
    return *(values.begin() + Below(values.size()));
  }

  std::vector<int32_t> Prompt() {
    const uint64_t family = Below(4);
    std::vector<int32_t> tokens(1 + Below(Chance(20) ? 60 : 24));
    for (size_t i = 0; i < tokens.size(); ++i) {
      const uint64_t hash = (family * 1000 + i + 1) * 0x9E3779B97F4A7C15U;
      tokens[i] = static_cast<int32_t>((hash >> 40) % static_cast<uint64_t>(limits_.vocab_size));
    }
    if (Chance(40)) tokens.back() = Token();
    return tokens;
  }

  GivenSpec Given() {
    GivenSpec given;
    given.token_ids.resize(1 + Below(7));
    for (int32_t& token : given.token_ids) token = static_cast<int32_t>(Below(2)) + 5;
    given.score = Chance(50);
    if (given.score && Chance(30)) given.top_logprobs = static_cast<int32_t>(1 + Below(3));
    return given;
  }

  GenerateSpec Generate() {
    GenerateSpec generate;
    generate.branches = Pick({1, 1, 2, 2, 3, 4, 9});
    generate.max_new_tokens = Pick({1, 2, 3, 5, 8, 12});
    generate.awaits_result = generate.max_new_tokens % 3 == 2;
    generate.ignore_eos = Chance(20);
    if (Chance(20)) generate.stop_token_ids = {Token()};
    if (Chance(20)) generate.top_logprobs = static_cast<int32_t>(1 + Below(3));
    if (with_text_ && Chance(30)) generate.stop_strings = {Pick({"a", "ab", "bb", "\n", "\xC3\xA9"}), "ca"};
    SamplingParams& sampling = generate.sampling;
    sampling.temperature = Pick({0.0F, 0.7F, 1.0F, 1.5F});
    if (Chance(20)) sampling.top_k = static_cast<int32_t>(Below(5));
    if (Chance(20)) sampling.top_p = 0.9F;
    if (Chance(20)) sampling.min_p = 0.1F;
    if (Chance(20)) sampling.repetition_penalty = 1.3F;
    if (Chance(10)) sampling.presence_penalty = 0.5F;
    if (Chance(10)) sampling.frequency_penalty = -0.25F;
    if (Chance(10)) sampling.logit_bias = {{Token(), 2.5F}, {Token(), -3.0F}};
    return generate;
  }

  SelectSpec Select() {
    return {static_cast<int32_t>(1 + Below(3)),
            Pick({SelectScore::kSumLogprob, SelectScore::kMeanLogprob, SelectScore::kLatestVerdict,
                  SelectScore::kSumVerdicts}),
            Pick({SelectScope::kLevel, SelectScope::kSiblings})};
  }

  std::mt19937_64& random_;
  const EngineLimits& limits_;
  const bool with_text_;
};

}  // namespace

TreeRequest RandomRequest(std::mt19937_64* random, const EngineLimits& limits, bool with_text) {
  Generator generator(random, limits, with_text);
  while (true) {
    TreeRequest request = generator.Request();
    if (ValidateTreeRequest(request, limits).ok()) return request;
  }
}

}  // namespace espalier::test
