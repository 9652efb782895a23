#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "espalier/v1/tree.pb.h"

namespace espalier::bench {

using Random = std::mt19937_64;

// Evenly one of [low, high], of any standard library the same.
inline int32_t Draw(Random* random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>((*random)() % static_cast<uint64_t>(high - low + 1));
}

// What a model is given: the parts of which the workloads make their trees.
class Prompts {
 public:
  virtual ~Prompts() = default;

  // One of few long prompts, and a last line of its own.
  virtual void FewShot(Random* random, v1::Given* given) const = 0;
  // A problem to search.
  virtual void Problem(Random* random, v1::Given* given) const = 0;
  // A short question.
  virtual void Chat(Random* random, v1::Given* given) const = 0;
  // What is scored behind each step of a search.
  virtual void Verdict(v1::Given* given) const = 0;
  // Where a step ends, and where an answer does; empty: at its most tokens only.
  virtual std::string StepStop() const = 0;
  virtual std::string AnswerStop() const = 0;
};

// Problems of the demo model's kind, as texts.
std::unique_ptr<Prompts> DemoPrompts();

// Random tokens of [0, vocab_size).
std::unique_ptr<Prompts> TokenPrompts(int32_t vocab_size, int32_t prompt_tokens);

}  // namespace espalier::bench
