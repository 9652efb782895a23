#include "engine/select.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

namespace espalier {
namespace {

struct Ranked {
  int32_t branch = 0;
  int32_t group = 0;
  double score = 0.0;
  bool worst = false;
};

}  // namespace

double ScoreOf(const SelectCandidate& candidate, SelectScore score) {
  if (candidate.failed) return -std::numeric_limits<double>::infinity();
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
    const double score = ScoreOf(candidate, spec.score);
    ranked.push_back({candidate.branch, candidate.group, score, candidate.failed || std::isnan(score)});
  }
  std::sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) {
    if (a.worst != b.worst) return b.worst;
    if (!a.worst && a.score != b.score) return a.score > b.score;
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
