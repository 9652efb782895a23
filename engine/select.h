#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/tree_request.h"

namespace espalier {

// What a selection needs to know of a branch at its barrier.
struct SelectCandidate {
  int32_t branch = 0;  // number
  // The branch from which this one, or its nearest ancestor with siblings, was generated. Rule: a branch of a
  // generating node with branches > 1 has its parent branch's number as group; all others inherit the group
  // of their parent branch; the root's is 0.
  int32_t group = 0;
  double sum_logprob = 0.0;  // of the tokens generated from the root to the end of the path
  int64_t generated_tokens = 0;
  double latest_verdict = 0.0;  // sum of log-probabilities of the last scored given node of the path
  double sum_verdicts = 0.0;    // of all scored given nodes
  bool failed = false;          // a branch of the path ended with kError
};

// Branches by number.
struct SelectOutcome {
  std::vector<int32_t> kept;    // best first
  std::vector<int32_t> pruned;  // best first
  std::vector<double> scores;   // of kept, then of pruned
};

// kMeanLogprob of a path on which nothing was generated: 0. Of a path that failed: -infinity.
double ScoreOf(const SelectCandidate& candidate, SelectScore score);

// Resolves a barrier: higher scores are better, ties go to the lower branch number; paths that failed, and
// NaN, are worst. kSiblings keeps up to `keep` of each group. The order of the candidates does not matter.
SelectOutcome Select(const SelectSpec& spec, std::span<const SelectCandidate> candidates);

}  // namespace espalier
