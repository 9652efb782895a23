#include "tests/model/golden.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/catch.h"
#include "tests/support/simple_decoder.h"

namespace espalier::test {

namespace {

constexpr float kMinMargin = 1e-3F;

void CompareLogits(const Golden& golden, const std::vector<float>& logits, int32_t vocab,
                   GoldenReport& report) {
  double largest = 0.0;
  double difference = 0.0;
  for (const Golden::Row& row : golden.logits) {
    REQUIRE(row.values.size() == static_cast<size_t>(vocab));
    const float* ours = logits.data() + static_cast<size_t>(row.position) * row.values.size();
    for (size_t i = 0; i < row.values.size(); ++i) {
      REQUIRE(std::isfinite(ours[i]));
      largest = std::max(largest, std::abs(static_cast<double>(row.values[i])));
      difference =
          std::max(difference, std::abs(static_cast<double>(row.values[i]) - static_cast<double>(ours[i])));
    }
  }
  report.logit_error = difference / largest;
}

double LogProbability(const float* logits, size_t vocab, int32_t token) {
  const double maximum = *std::max_element(logits, logits + vocab);
  double sum = 0.0;
  for (size_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - maximum);
  return static_cast<double>(logits[token]) - maximum - std::log(sum);
}

void CompareLogprobs(const Golden& golden, const std::vector<float>& logits, int32_t vocab,
                     GoldenReport& report) {
  double sum = 0.0;
  for (size_t i = 0; i + 1 < golden.text.size(); ++i) {
    const float* row = logits.data() + i * static_cast<size_t>(vocab);
    const double ours = LogProbability(row, static_cast<size_t>(vocab), golden.text[i + 1]);
    REQUIRE(std::isfinite(ours));
    const double error = std::abs(ours - golden.logprobs[i]);
    sum += error;
    report.logprob_max_error = std::max(report.logprob_max_error, error);
  }
  report.logprob_mean_error = sum / static_cast<double>(golden.logprobs.size());
}

void CompareGreedy(const Golden& golden, const std::vector<int32_t>& tokens, GoldenReport& report) {
  const auto first_close = std::find_if(golden.margins.begin(), golden.margins.end(),
                                        [](float margin) { return margin < kMinMargin; });
  report.greedy_checked = static_cast<int32_t>(first_close - golden.margins.begin());
  const auto end = golden.greedy.begin() + report.greedy_checked;
  report.greedy_equal = static_cast<int32_t>(std::mismatch(golden.greedy.begin(), end, tokens.begin()).first -
                                             golden.greedy.begin());
}

// `logits` of the prompt and the greedy tokens behind it.
void CompareBest(const Golden& golden, const std::vector<float>& logits, int32_t vocab,
                 GoldenReport& report) {
  for (size_t i = 0; i < golden.greedy.size(); ++i) {
    if (golden.margins[i] < kMinMargin) continue;
    const float* row = logits.data() + (golden.prompt.size() - 1 + i) * static_cast<size_t>(vocab);
    ++report.best_checked;
    if (std::max_element(row, row + vocab) - row == golden.greedy[i]) ++report.best_equal;
  }
}

}  // namespace

std::vector<Golden> ReadGoldenFile(const std::filesystem::path& file) {
  std::ifstream stream(file);
  REQUIRE(stream);
  std::vector<Golden> golden_cases;
  const auto file_json = nlohmann::json::parse(stream);
  for (const auto& entry : file_json.at("cases")) {
    Golden golden;
    golden.name = entry.at("name").get<std::string>();
    golden.config = entry.value("config", nlohmann::json()).dump();
    golden.seed = entry.value("seed", uint64_t{0});
    entry.at("prompt").get_to(golden.prompt);
    entry.at("greedy").get_to(golden.greedy);
    entry.at("margins").get_to(golden.margins);
    for (const auto& row : entry.at("logits")) {
      golden.logits.push_back(
          {row.at("position").get<int32_t>(), row.at("values").get<std::vector<float>>()});
    }
    entry.at("text").get_to(golden.text);
    entry.at("logprobs").get_to(golden.logprobs);
    const auto& bf16 = entry.at("transformers_bfloat16");
    bf16.at("mean_error").get_to(golden.transformers_bf16_mean_error);
    bf16.at("max_error").get_to(golden.transformers_bf16_max_error);
    REQUIRE(golden.margins.size() == golden.greedy.size());
    REQUIRE(golden.logprobs.size() + 1 == golden.text.size());
    golden_cases.push_back(std::move(golden));
  }
  REQUIRE(!golden_cases.empty());
  return golden_cases;
}

GoldenReport Compare(const Golden& golden, ModelRunner& runner, int32_t chunk) {
  GoldenReport report;
  SimpleDecoder decoder(runner);
  const int32_t vocab = runner.info().vocab_size;
  std::vector<int32_t> whole = golden.prompt;
  whole.insert(whole.end(), golden.greedy.begin(), golden.greedy.end());
  const auto logits = decoder.AllLogits(whole, chunk);
  REQUIRE(logits.ok());
  CompareLogits(golden, *logits, vocab, report);
  CompareBest(golden, *logits, vocab, report);
  const auto text_logits = golden.text == whole ? logits : decoder.AllLogits(golden.text, chunk);
  REQUIRE(text_logits.ok());
  CompareLogprobs(golden, *text_logits, vocab, report);

  const auto greedy = decoder.Greedy({golden.prompt}, static_cast<int32_t>(golden.greedy.size()), chunk);
  REQUIRE(greedy.ok());
  CompareGreedy(golden, greedy->front(), report);
  return report;
}

}  // namespace espalier::test
