#include "engine/select.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

namespace espalier {
namespace {

struct Ranked {
  int32_t branch = 0;
  int32_t group = 0;
  double score = 0.0;
};

}  // namespace

double ScoreOf(const SelectCandidate& candidate, SelectScore score) {
  switch (score) {
    case SelectScore::kSumLogprob:
      return candidate.sum_logprob;
    case SelectScore::kMeanLogprob:
      return candidate.generated_tokens == 0
                 ? 0.0
                 : candidate.sum_logprob / static_cast<double>(candidate.generated_tokens);
    case SelectScore::kLatestVerdict:
      return candidate.latest_verdict;
    case SelectScore::kSumVerdicts:
      return candidate.sum_verdicts;
  }
  ESPALIER_CHECK(false);
  return 0.0;
}

SelectOutcome Select(const SelectSpec& spec, std::span<const SelectCandidate> candidates) {
  std::vector<Ranked> ranked;
  ranked.reserve(candidates.size());
  for (const SelectCandidate& candidate : candidates) {
    ranked.push_back({candidate.branch, candidate.group, ScoreOf(candidate, spec.score)});
  }
  std::sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) {
    const bool a_nan = std::isnan(a.score);
    const bool b_nan = std::isnan(b.score);
    if (a_nan != b_nan) return b_nan;
    if (!a_nan && a.score != b.score) return a.score > b.score;
    return a.branch < b.branch;
  });

  SelectOutcome outcome;
  std::vector<double> pruned_scores;
  std::unordered_map<int32_t, int32_t> kept_of_group;
  for (const Ranked& candidate : ranked) {
    int32_t& kept = kept_of_group[spec.scope == SelectScope::kSiblings ? candidate.group : 0];
    if (kept < spec.keep) {
      ++kept;
      outcome.kept.push_back(candidate.branch);
      outcome.scores.push_back(candidate.score);
    } else {
      outcome.pruned.push_back(candidate.branch);
      pruned_scores.push_back(candidate.score);
    }
  }
  outcome.scores.insert(outcome.scores.end(), pruned_scores.begin(), pruned_scores.end());
  return outcome;
}

}  // namespace espalier
