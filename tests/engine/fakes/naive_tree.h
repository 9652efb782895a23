#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/tree_event.h"
#include "engine/tree_request.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/engine/fakes/fake_model.h"

namespace espalier::test {

// One branch of what a request must give.
struct NaiveBranch {
  int32_t node = 0;
  int32_t parent = -1;  // index of a branch
  int32_t group = 0;    // index of a branch: the one from which this one's nearest siblings grew
  uint64_t stream = 0;
  std::vector<int32_t> path;       // all tokens from the root to the end of this branch
  std::vector<int32_t> generated;  // of these: generated, for penalties
  std::vector<int32_t> token_ids;  // of this branch alone
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> top_logprobs;
  std::string text;
  FinishReason finish_reason = FinishReason::kNone;
  double sum_logprob = 0.0;
  double latest_verdict = 0.0;
  double sum_verdicts = 0.0;
  bool terminal = true;
  bool failed = false;  // it or a branch above ended with kError
  bool ends = false;    // of these, where what failed was generated: nothing can follow
};

struct NaiveSelection {
  int32_t node = 0;
  std::vector<int32_t> kept;  // indices of branches, best first
  std::vector<int32_t> pruned;
  std::vector<double> scores;
};

struct NaiveResult {
  std::vector<NaiveBranch> branches;  // nodes in order, parents in order: not the engine's numbers
  std::vector<NaiveSelection> selections;
};

// The engine's number of a branch by its index; for ties of a selection only.
using NumberOf = std::function<int32_t(const NaiveResult& so_far, int32_t index)>;

// All that a request must give, computed branch after branch from whole sequences: no cache, no blocks, no
// batch, no steps. `tokenizer` may be null.
NaiveResult RunNaiveTree(const TreeRequest& request, const FakeModel& model, const Tokenizer* tokenizer,
                         const NumberOf& number_of);

// Rows that the request takes where each path is run once: those that are scored from, sampled from, asked
// for, or stand before such a row. Equal tokens of given nodes that hang together count once. Precondition:
// no selections.
int64_t NaiveRows(const TreeRequest& request, const NaiveResult& result);

// What was received for a request, against what it must give; the first difference, or nothing.
std::string CompareWithNaive(const TreeRequest& request, const std::vector<TreeEvent>& events,
                             const FakeModel& model, const Tokenizer* tokenizer);

}  // namespace espalier::test
