#include "tests/bench/serve_prompts.h"

#include <algorithm>
#include <array>
#include <optional>

namespace espalier::bench {

namespace {

constexpr int kSharedPrompts = 4;   // distinct few-shot prompts
constexpr int kSharedSeed = 20;     // theirs: the same in every run, whatever its seed
constexpr int kSolvedProblems = 9;  // in a few-shot prompt

constexpr int kNumbers = 4;
constexpr int kMaxNumber = 13;
constexpr int kMaxValue = 60;
constexpr int kMinTarget = 10;
constexpr int kMaxTarget = 50;

std::string Joined(const std::vector<int>& numbers) {
  std::string text;
  for (const int number : numbers) text += (text.empty() ? "" : " ") + std::to_string(number);
  return text;
}

// One arithmetic step on two of the numbers, larger first, as the demo model writes it. Nothing: not a legal
// one.
std::optional<std::string> RandomStep(Random* random, std::vector<int>* numbers) {
  std::shuffle(numbers->begin(), numbers->end(), *random);
  const int a = std::max((*numbers)[0], (*numbers)[1]);
  const int b = std::min((*numbers)[0], (*numbers)[1]);
  int value = 0;
  const char sign = "+-*/"[Draw(random, 0, 3)];
  if (sign == '+') value = a + b;
  if (sign == '-') value = a - b;
  if (sign == '*') value = a * b;
  if (sign == '/' && b > 1 && a % b == 0) value = a / b;
  if (value < 1 || value > kMaxValue) return std::nullopt;
  numbers->erase(numbers->begin());
  numbers->front() = value;
  std::sort(numbers->begin(), numbers->end());
  return std::to_string(a) + " " + sign + " " + std::to_string(b) + " = " + std::to_string(value) + " left " +
         Joined(*numbers);
}

struct SolvedProblem {
  std::string problem;  // its line
  std::string steps;    // the lines of a solution
};

SolvedProblem RandomCountdown(Random* random) {
  while (true) {
    std::vector<int> numbers;
    numbers.reserve(kNumbers);
    for (int i = 0; i < kNumbers; ++i) numbers.push_back(Draw(random, 1, kMaxNumber));
    std::sort(numbers.begin(), numbers.end());
    SolvedProblem solved;
    const std::string line = "numbers " + Joined(numbers);
    bool legal = true;
    while (legal && numbers.size() > 1) {
      const auto step = RandomStep(random, &numbers);
      legal = step.has_value();
      if (legal) solved.steps += *step + " : ok\n";
    }
    if (!legal || numbers.front() < kMinTarget || numbers.front() > kMaxTarget) continue;
    solved.problem = line + " target " + std::to_string(numbers.front()) + "\n";
    return solved;
  }
}

class DemoTexts final : public Prompts {
 public:
  DemoTexts() {
    Random random(kSharedSeed);
    for (std::string& prompt : shared_) {
      for (int i = 0; i < kSolvedProblems; ++i) {
        const SolvedProblem solved = RandomCountdown(&random);
        prompt += solved.problem + solved.steps + "\n";
      }
    }
  }

  void FewShot(Random* random, v1::Given* given) const override {
    const auto prompt = static_cast<size_t>(Draw(random, 0, kSharedPrompts - 1));
    given->set_text(shared_[prompt] + RandomCountdown(random).problem);
  }
  void Problem(Random* random, v1::Given* given) const override {
    given->set_text(RandomCountdown(random).problem);
  }
  void Chat(Random* random, v1::Given* given) const override {
    std::string text = "list";
    for (int i = 0; i < kNumbers; ++i) text += " " + std::to_string(Draw(random, 1, 45));
    given->set_text(text + " gives");
  }
  void Verdict(v1::Given* given) const override { given->set_text(" ok"); }
  std::string StepStop() const override { return " :"; }
  std::string AnswerStop() const override { return "\n\n"; }

 private:
  std::array<std::string, kSharedPrompts> shared_;
};

class RandomTokens final : public Prompts {
 public:
  RandomTokens(int32_t vocab_size, int32_t prompt_tokens)
      : vocab_size_(vocab_size), prompt_tokens_(prompt_tokens) {
    Random random(kSharedSeed);
    for (v1::TokenIds& prompt : shared_) AddTokens(&random, prompt_tokens, &prompt);
  }

  void FewShot(Random* random, v1::Given* given) const override {
    v1::TokenIds& ids = *given->mutable_token_ids();
    ids = shared_[static_cast<size_t>(Draw(random, 0, kSharedPrompts - 1))];
    const int32_t own = std::min(kOwnTokens, prompt_tokens_);
    ids.mutable_ids()->Truncate(prompt_tokens_ - own);
    AddTokens(random, own, &ids);
  }
  void Problem(Random* random, v1::Given* given) const override {
    AddTokens(random, kProblemTokens, given->mutable_token_ids());
  }
  void Chat(Random* random, v1::Given* given) const override {
    AddTokens(random, kProblemTokens, given->mutable_token_ids());
  }
  void Verdict(v1::Given* given) const override {
    Random same(kSharedSeed);
    AddTokens(&same, 1, given->mutable_token_ids());
  }
  std::string StepStop() const override { return ""; }
  std::string AnswerStop() const override { return ""; }

 private:
  static constexpr int32_t kOwnTokens = 8;  // at the end of a few-shot prompt
  static constexpr int32_t kProblemTokens = 12;

  void AddTokens(Random* random, int32_t count, v1::TokenIds* ids) const {
    for (int32_t i = 0; i < count; ++i) ids->add_ids(Draw(random, 0, vocab_size_ - 1));
  }

  const int32_t vocab_size_;
  const int32_t prompt_tokens_;
  std::array<v1::TokenIds, kSharedPrompts> shared_;
};

}  // namespace

std::unique_ptr<Prompts> DemoPrompts() { return std::make_unique<DemoTexts>(); }

std::unique_ptr<Prompts> TokenPrompts(int32_t vocab_size, int32_t prompt_tokens) {
  return std::make_unique<RandomTokens>(vocab_size, prompt_tokens);
}

}  // namespace espalier::bench
