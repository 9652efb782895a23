#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/base/philox.h"
#include "kernels/token_filter.h"
#include "tests/support/catch.h"

namespace espalier::test {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> RandomLogits(uint32_t seed, size_t vocab) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 3.0F);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

TokenResult Sample(const std::vector<float>& logits, const SamplingParams& params, uint64_t stream,
                   int32_t position = 0, const TokenCounts* counts = nullptr, int32_t top = 0) {
  return SampleToken(logits, Summarize(logits), params, counts, stream, position, top);
}

// The distribution that the contract describes, by sorting everything, in double.
std::vector<double> NaiveDistribution(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> weights(logits.size(), 0.0);
  const double max = logits[order.front()];
  const size_t kept =
      params.top_k > 0 ? std::min(order.size(), static_cast<size_t>(params.top_k)) : order.size();
  double total = 0.0;
  for (size_t i = 0; i < kept; ++i) {
    const double weight = std::exp((logits[order[i]] - max) / static_cast<double>(params.temperature));
    if (weight < static_cast<double>(params.min_p)) continue;
    weights[order[i]] = weight;
    total += weight;
  }
  double sum = 0.0;
  for (const size_t id : order) {
    if (sum >= static_cast<double>(params.top_p) * total) weights[id] = 0.0;
    sum += weights[id];
  }
  const double left = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= left;
  return weights;
}

}  // namespace

TEST_CASE("Log-probabilities agree with a softmax in double") {
  for (const size_t vocab : {size_t{1}, size_t{7}, size_t{1000}, size_t{32003}, size_t{128256}}) {
    const std::vector<float> logits = RandomLogits(static_cast<uint32_t>(vocab), vocab);
    const LogitSummary summary = Summarize(logits);
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0.0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
    REQUIRE(summary.argmax == std::max_element(logits.begin(), logits.end()) - logits.begin());
    for (size_t id = 0; id < vocab; id += 1 + vocab / 50) {
      const double exact = static_cast<double>(logits[id]) - max - std::log(sum);
      REQUIRE(std::abs(static_cast<double>(summary.LogProbability(logits[id])) - exact) <
              2e-6 * std::max(1.0, std::abs(exact)));
    }
  }
}

TEST_CASE("A row with one logit that is not finite has no distribution, whatever is asked of it") {
  for (const size_t vocab : {size_t{1}, size_t{16}, size_t{1000}, size_t{40001}}) {
    for (const float bad : {kNan, -kNan, kInfinity, -kInfinity}) {
      for (const size_t at : {size_t{0}, vocab / 2, vocab - 1}) {
        std::vector<float> logits = RandomLogits(4, vocab);
        logits[at] = bad;
        const LogitSummary summary = Summarize(logits);
        REQUIRE(!summary.finite());
        REQUIRE(std::isnan(summary.LogProbability(1.0F)));
        for (const float temperature : {0.0F, 1e-40F, 1.0F}) {
          SamplingParams params;
          params.temperature = temperature;
          params.top_p = 0.9F;
          params.logit_bias = {{0, 1.0F}};
          const TokenResult sampled = Sample(logits, params, 1, 0, nullptr, 3);
          REQUIRE(sampled.failed());
          REQUIRE(sampled.token_id == 0);
          REQUIRE(sampled.top_logprobs.empty());
        }
        const auto given = static_cast<int32_t>(vocab - 1 - at);
        const TokenResult scored = ScoreToken(logits, summary, given, 3);
        REQUIRE(scored.failed());
        REQUIRE(scored.token_id == given);
        REQUIRE(scored.top_logprobs.empty());
      }
    }
  }
  const std::vector<float> all(100, kNan);
  REQUIRE(Sample(all, {}, 1).failed());
  REQUIRE(Sample(std::vector<float>(100, -kInfinity), {}, 1).failed());
}

TEST_CASE("Log-probabilities of the largest finite logits are finite") {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const std::vector<float> logits = {kLargest, -kLargest, 0.0F, kLargest};
  const LogitSummary summary = Summarize(logits);
  REQUIRE(summary.argmax == 0);
  REQUIRE(std::abs(summary.LogProbability(kLargest) + std::log(2.0F)) < 1e-6F);
  REQUIRE(summary.LogProbability(-kLargest) == -kLargest);
  for (const TokenLogprob& token : TopLogprobs(logits, summary, 4)) REQUIRE(std::isfinite(token.logprob));
  for (uint64_t stream = 0; stream < 20; ++stream) {
    const int32_t sampled = Sample(logits, {}, stream).token_id;
    REQUIRE((sampled == 0 || sampled == 3));
  }
}

TEST_CASE("Top log-probabilities are the most likely tokens, ties to the lower id") {
  for (const size_t vocab : {size_t{5}, size_t{500}, size_t{50000}}) {
    std::vector<float> logits = RandomLogits(3, vocab);
    for (float& logit : logits) logit = std::round(logit * 4) / 4;  // many ties
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    for (const int32_t count : {0, 1, 5, 20, 600}) {
      const std::vector<TokenLogprob> top = TopLogprobs(logits, Summarize(logits), count);
      REQUIRE(top.size() == std::min(vocab, static_cast<size_t>(count)));
      for (size_t i = 0; i < top.size(); ++i) REQUIRE(top[i].token_id == order[i]);
    }
  }
}

TEST_CASE("Temperature 0, top_k 1 and a tiny top_p are greedy, ties to the lowest id") {
  std::vector<float> logits = RandomLogits(5, 3000);
  logits[100] = logits[2000] = 50.0F;
  SamplingParams greedy;
  greedy.temperature = 0.0F;
  SamplingParams one;
  one.top_k = 1;
  SamplingParams tiny;
  tiny.top_p = 1e-6F;
  SamplingParams strict;
  strict.min_p = 1.0F;
  for (uint64_t stream = 0; stream < 50; ++stream) {
    for (const SamplingParams& params : {greedy, one, tiny})
      REQUIRE(Sample(logits, params, stream).token_id == 100);
    const int32_t likeliest = Sample(logits, strict, stream).token_id;
    REQUIRE((likeliest == 100 || likeliest == 2000));
  }
}

TEST_CASE("The smallest temperatures are greedy, with every cut, whatever the scale of the logits") {
  constexpr float kLargest = std::numeric_limits<float>::max();
  std::vector<SamplingParams> cuts(7);
  cuts[1].top_p = 0.9F;
  cuts[2].min_p = 0.1F;
  cuts[3].top_k = 5;
  cuts[4].top_p = std::numeric_limits<float>::denorm_min();
  cuts[5].min_p = 1.0F;
  cuts[6].top_k = 7;
  cuts[6].top_p = 0x1.fffffep-1F;
  cuts[6].min_p = std::numeric_limits<float>::denorm_min();
  for (const float scale : {1.0F, 1e-20F, 1e30F, kLargest}) {
    std::vector<float> logits = RandomLogits(6, 777);
    for (float& logit : logits) logit = std::clamp(logit, -9.0F, 9.0F) / 10.0F * scale;
    logits[300] = scale;
    logits[100] = -scale;
    for (SamplingParams params : cuts) {
      for (const float temperature : {-0.0F, std::numeric_limits<float>::denorm_min(), 1e-40F, 2.9e-39F,
                                      3e-39F, std::numeric_limits<float>::min(), 1e-30F}) {
        params.temperature = temperature;
        CAPTURE(scale, temperature, params.top_k, params.top_p, params.min_p);
        for (uint64_t stream = 0; stream < 5; ++stream)
          REQUIRE(Sample(logits, params, stream).token_id == 300);
        logits[200] = scale;  // ties: the lower id where the temperature is too small for fp32
        const int32_t tied = Sample(logits, params, 1).token_id;
        REQUIRE((tied == 200 || (tied == 300 && params.InverseTemperature() > 0.0F)));
        logits[200] = 0.0F;
      }
    }
  }
}

TEST_CASE("Cuts keep the most likely token, also those that leave nothing") {
  const std::vector<float> logits = {-3.0F, 2.0F, 5.0F, 5.0F};
  SamplingParams params;
  for (const float min_p : {1.0F, std::nextafter(1.0F, 2.0F), 5.0F}) {
    params.min_p = min_p;
    const int32_t sampled = SampleTokenId(logits, 2, params, 0.0);
    REQUIRE(sampled == 2);
  }
  params = {};
  params.temperature = 100.0F;
  params.top_p = std::numeric_limits<float>::denorm_min();
  for (const double uniform : {0.0, 0.5, 1.0 - 0x1p-53})
    REQUIRE(SampleTokenId(logits, 2, params, uniform) == 2);
}

TEST_CASE("Penalties that carry logits beyond fp32 leave their order") {
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  const std::vector<float> logits = {-1.0F, 3.0F, 90.0F, 5.0F, 5.0F};
  const TokenCounts counts = {{1, 1}, {3, 2}, {4, 1}};
  for (const float repetition : {kTiny, 1e-40F, 1e-38F}) {
    for (const float temperature : {0.0F, 1e-40F, 1.0F, 100.0F}) {
      SamplingParams params;
      params.temperature = temperature;
      params.repetition_penalty = repetition;
      params.presence_penalty = 2.0F;
      params.frequency_penalty = -2.0F;
      CAPTURE(repetition, temperature);
      for (uint64_t stream = 0; stream < 5; ++stream) {
        REQUIRE(Sample(logits, params, stream, 0, &counts).token_id == 3);
        params.logit_bias = {{1, 50.0F}, {1, 50.0F}, {3, -100.0F}};  // 103, 90, -95, 5
        REQUIRE(Sample(logits, params, stream, 0, &counts).token_id == 1);
        params.logit_bias.clear();
      }
    }
  }
  // Everything beyond fp32 on the other side.
  const std::vector<float> low = {-3.3e38F, -3.1e38F, -3.2e38F};
  SamplingParams params;
  params.repetition_penalty = 10.0F;
  const TokenCounts all = {{0, 1}, {1, 1}, {2, 1}};
  REQUIRE(Sample(low, params, 1, 0, &all).token_id == 1);
}

TEST_CASE("Samples follow the distribution that the parameters describe") {
  std::vector<SamplingParams> cases(9);
  cases[1].temperature = 0.5F;
  cases[2].temperature = 2.0F;
  cases[3].top_k = 5;
  cases[4].top_p = 0.7F;
  cases[5].min_p = 0.05F;
  cases[6].top_k = 12;
  cases[6].top_p = 0.8F;
  cases[7].temperature = 3.0F;
  cases[7].top_k = 20;
  cases[7].min_p = 0.1F;
  cases[7].top_p = 0.9F;
  cases[8].temperature = 100.0F;
  const std::vector<float> logits = RandomLogits(17, 40);
  constexpr int32_t kSamples = 20000;
  for (size_t c = 0; c < cases.size(); ++c) {
    const std::vector<double> expected = NaiveDistribution(logits, cases[c]);
    std::vector<int32_t> sampled(logits.size(), 0);
    for (int32_t i = 0; i < kSamples; ++i) {
      ++sampled[static_cast<size_t>(
          Sample(logits, cases[c], 1234 + static_cast<uint64_t>(i % 10), i).token_id)];
    }
    double chi_square = 0.0;
    int32_t degrees = -1;
    double rare = 0.0;  // expectations too small for the test, taken together
    int32_t rare_sampled = 0;
    for (size_t id = 0; id < logits.size(); ++id) {
      if (expected[id] == 0.0) REQUIRE(sampled[id] == 0);
      const double mean = expected[id] * kSamples;
      if (mean < 10.0) {
        rare += mean;
        rare_sampled += sampled[id];
        continue;
      }
      chi_square += (sampled[id] - mean) * (sampled[id] - mean) / mean;
      ++degrees;
    }
    if (rare >= 10.0) {
      chi_square += (rare_sampled - rare) * (rare_sampled - rare) / rare;
      ++degrees;
    }
    INFO("case " << c << " chi-square " << chi_square << " with " << degrees << " degrees of freedom");
    // Mean + 5 standard deviations; the seeds are fixed.
    REQUIRE(chi_square < degrees + 5.0 * std::sqrt(2.0 * degrees) + 1e-9);
  }
}

TEST_CASE("Cuts keep the same tokens as a full sort on a large vocabulary") {
  const std::vector<float> logits = RandomLogits(23, 30000);
  std::vector<SamplingParams> cases(5);
  cases[0].top_k = 40;
  cases[1].top_p = 0.9F;
  cases[2].top_p = 0.05F;
  cases[3].temperature = 50.0F;  // nearly flat: most of the vocabulary is needed
  cases[3].top_p = 0.9F;
  cases[4].min_p = 0.01F;
  cases[4].top_k = 1000;
  for (const SamplingParams& params : cases) {
    const std::vector<double> expected = NaiveDistribution(logits, params);
    // The ends of the unit interval reach the ends of the kept set.
    const auto likeliest =
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    const auto possible = [](double p) { return p > 0.0; };
    const auto first = std::find_if(expected.begin(), expected.end(), possible) - expected.begin();
    const auto last =
        std::find_if(expected.rbegin(), expected.rend(), possible).base() - expected.begin() - 1;
    REQUIRE(SampleTokenId(logits, likeliest, params, 0.0) == first);
    REQUIRE(SampleTokenId(logits, likeliest, params, 1.0 - 0x1p-53) == last);
    double sum = 0.0;
    int32_t tried = 0;
    for (size_t id = 0; id < expected.size(); ++id) {
      if (expected[id] > 1e-6 && (tried < 60 || id % 499 == 0)) {
        REQUIRE(SampleTokenId(logits, likeliest, params, sum + expected[id] / 2) == static_cast<int32_t>(id));
        ++tried;
      }
      sum += expected[id];
    }
  }
}

TEST_CASE("A sample depends on stream and position alone") {
  const std::vector<float> logits = RandomLogits(29, 1000);
  SamplingParams params;
  params.temperature = 5.0F;
  std::vector<int32_t> tokens;
  for (int32_t position = 0; position < 100; ++position)
    tokens.push_back(Sample(logits, params, 9, position).token_id);
  for (int32_t position = 99; position >= 0; --position) {
    REQUIRE(Sample(logits, params, 9, position).token_id == tokens[static_cast<size_t>(position)]);
  }
  int32_t same = 0;
  for (int32_t position = 0; position < 100; ++position) {
    same += Sample(logits, params, 10, position).token_id == tokens[static_cast<size_t>(position)] ? 1 : 0;
  }
  REQUIRE(same < 20);
}

TEST_CASE("Bias and penalties change the choice, never the reported log-probability") {
  std::vector<float> logits = {3.0F, 2.0F, -1.0F, 0.5F};
  SamplingParams params;
  params.temperature = 0.0F;
  params.logit_bias = {{3, 10.0F}};
  const TokenResult biased = Sample(logits, params, 0);
  REQUIRE(biased.token_id == 3);
  REQUIRE(biased.logprob == Summarize(logits).LogProbability(0.5F));
  params.logit_bias = {{0, -kInfinity}};
  REQUIRE(Sample(logits, params, 0).token_id == 1);

  SequenceStore sequences;
  sequences.SetHistory({7, {0}, {1, 1}});
  params = {};
  params.temperature = 0.0F;
  params.repetition_penalty = 2.0F;  // 1.5, 1.0, -1, 0.5
  REQUIRE(Sample(logits, params, 0, 0, sequences.Counts(7)).token_id == 0);
  params.repetition_penalty = 10.0F;  // 0.3, 0.2, -1, 0.5
  REQUIRE(Sample(logits, params, 0, 0, sequences.Counts(7)).token_id == 3);
  params.repetition_penalty = 1.0F;
  params.presence_penalty = 2.0F;  // only token 1 was generated: 3, 0, -1, 0.5
  REQUIRE(Sample(logits, params, 0, 0, sequences.Counts(7)).token_id == 0);
  logits[1] = 4.5F;
  params.presence_penalty = 1.0F;
  REQUIRE(Sample(logits, params, 0, 0, sequences.Counts(7)).token_id == 1);
  params.frequency_penalty = 0.5F;  // twice: 4.5 - 1 - 1
  REQUIRE(Sample(logits, params, 0, 0, sequences.Counts(7)).token_id == 0);
  params = {};
  params.temperature = 0.0F;
  params.repetition_penalty = 0.1F;  // below one it favours repetition: 30, 45
  REQUIRE(Sample(logits, params, 0, 0, sequences.Counts(7)).token_id == 1);
}

TEST_CASE("Sequence slots remember the last token, and the history of those that use it") {
  SequenceStore sequences;
  sequences.SetHistory({4, {10, 11}, {12}});
  sequences.Sampled(4, 11, true);
  REQUIRE(sequences.Resolve({-1, 4}) == 11);
  REQUIRE(sequences.Resolve({5, 4}) == 5);
  const auto totals = [&] {
    std::map<int32_t, int32_t> sums;
    sequences.Counts(4)->ForEach([&](int32_t id, int32_t count) { sums[id] += count; });
    return sums;
  };
  REQUIRE(totals() == std::map<int32_t, int32_t>{{10, 0}, {11, 1}, {12, 1}});
  sequences.SetHistory({4, {1}, {}});
  REQUIRE(totals() == std::map<int32_t, int32_t>{{1, 0}});
  sequences.Sampled(4, 1, false);
  REQUIRE(sequences.Counts(4) == nullptr);
}

TEST_CASE("One row of logits feeds many samples and scores") {
  constexpr int64_t kVocab = 50;
  std::vector<float> logits = RandomLogits(31, kVocab);
  const std::vector<float> second = RandomLogits(32, kVocab);
  logits.insert(logits.end(), second.begin(), second.end());
  StepInput step;
  step.logit_rows = {0, 3};
  step.params.resize(2);
  step.params[1].presence_penalty = 1.0F;
  for (int32_t slot = 0; slot < 20; ++slot) {
    SampleRequest request;
    request.logit_index = slot < 15 ? 0 : 1;
    request.sequence_slot = slot;
    request.params = slot % 2;
    request.position = 12;
    request.stream = static_cast<uint64_t>(slot);
    request.top_logprobs = 3;
    step.samples.push_back(request);
  }
  step.scores = {{1, 7, 2}};
  step.return_logits = true;
  SequenceStore sequences;
  StepResult result;
  // A row at a time, in rows that are longer than the vocabulary.
  for (int32_t row = 0; row < 2; ++row) {
    std::vector<float> padded(logits.begin() + row * kVocab, logits.begin() + (row + 1) * kVocab);
    padded.resize(kVocab + 5, 1e9F);
    SampleRows(step, {padded.data(), kVocab + 5, kVocab, row, 1}, SerialFor, &sequences, &result);
  }
  REQUIRE(result.logits == logits);
  for (size_t i = 0; i < step.samples.size(); ++i) {
    const std::vector<float> row(logits.begin() + step.samples[i].logit_index * kVocab,
                                 logits.begin() + (step.samples[i].logit_index + 1) * kVocab);
    const TokenResult alone = Sample(row, step.params[i % 2], i, 12, nullptr, 3);
    REQUIRE(result.samples[i].token_id == alone.token_id);
    REQUIRE(result.samples[i].logprob == alone.logprob);
    REQUIRE(result.samples[i].top_logprobs.size() == 3);
    REQUIRE(sequences.Resolve({-1, static_cast<int32_t>(i)}) == alone.token_id);
    REQUIRE((sequences.Counts(static_cast<int32_t>(i)) != nullptr) == (i % 2 == 1));
  }
  REQUIRE(result.scores[0].token_id == 7);
  REQUIRE(result.scores[0].logprob == Summarize(second).LogProbability(second[7]));
  REQUIRE(result.scores[0].top_logprobs.size() == 2);
}

TEST_CASE("What paths have in common is counted once, and each path has its own counts") {
  constexpr int32_t kVocab = 200;
  constexpr int32_t kPrompt = 1000;
  std::mt19937 random(5);
  const auto tokens = [&](int32_t count) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
    return ids;
  };
  const auto piece = [](std::shared_ptr<const PathHistory> above, std::vector<int32_t> prompt,
                        std::vector<int32_t> generated) {
    return std::make_shared<const PathHistory>(
        PathHistory{std::move(above), 1, std::move(prompt), std::move(generated)});
  };
  const std::vector<float> logits = RandomLogits(9, kVocab);
  SamplingParams params;
  params.temperature = 0.0F;
  params.repetition_penalty = 1.3F;
  params.presence_penalty = 0.7F;
  params.frequency_penalty = 0.1F;
  SequenceStore store;
  int64_t distinct_tokens = 0;
  // Trees that come and go: their pieces may lie where others lay.
  for (int tree = 0; tree < 40; ++tree) {
    const auto prompt = piece(nullptr, tokens(kPrompt), {});
    distinct_tokens += kPrompt;
    for (int32_t middle = 0; middle < 5; ++middle) {
      const auto below = piece(prompt, tokens(3), tokens(30));
      distinct_tokens += 33;
      for (int32_t slot = middle * 8; slot < middle * 8 + 8; ++slot) {
        store.SetHistory({slot, below});
        std::unordered_map<int32_t, int32_t> counts;
        for (const int32_t id : prompt->prompt_tokens) counts.try_emplace(id, 0);
        for (const int32_t id : below->prompt_tokens) counts.try_emplace(id, 0);
        for (const int32_t id : below->generated_tokens) ++counts[id];
        for (const int32_t id : tokens(20)) {
          store.Sampled(slot, id, true);
          ++counts[id];
        }
        std::vector<float> expected = logits;
        for (const auto& [id, count] : counts) {
          float& logit = expected[static_cast<size_t>(id)];
          logit = logit > 0.0F ? logit / 1.3F : logit * 1.3F;
          if (count > 0) logit -= 0.7F + 0.1F * static_cast<float>(count);
        }
        const auto largest = std::max_element(expected.begin(), expected.end()) - expected.begin();
        REQUIRE(Sample(logits, params, 0, 0, store.Counts(slot)).token_id == largest);
      }
    }
  }
  REQUIRE(store.histories().counted_tokens() == distinct_tokens);  // with 8 branches below each
  REQUIRE(store.histories().known_pieces() <= 16 + 2 * 6);
}

}  // namespace espalier::test
