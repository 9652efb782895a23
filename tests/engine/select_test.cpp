#include "engine/select.h"

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "tests/support/catch.h"

namespace espalier {
namespace {

using Ids = std::vector<int32_t>;

const std::vector<SelectCandidate> kCandidates = {
    {.branch = 1,
     .group = 0,
     .sum_logprob = -6,
     .generated_tokens = 6,
     .latest_verdict = -3,
     .sum_verdicts = -4},
    {.branch = 2,
     .group = 0,
     .sum_logprob = -2,
     .generated_tokens = 1,
     .latest_verdict = -1,
     .sum_verdicts = -9},
    {.branch = 3,
     .group = 7,
     .sum_logprob = -5,
     .generated_tokens = 2,
     .latest_verdict = -2,
     .sum_verdicts = -5},
    {.branch = 4,
     .group = 7,
     .sum_logprob = -6,
     .generated_tokens = 4,
     .latest_verdict = -4,
     .sum_verdicts = -4},
};

SelectOutcome Run(int32_t keep, SelectScore score, SelectScope scope = SelectScope::kLevel) {
  return Select({keep, score, scope}, kCandidates);
}

TEST_CASE("each score ranks by its own figure") {
  CHECK(Run(2, SelectScore::kSumLogprob).kept == Ids{2, 3});
  CHECK(Run(2, SelectScore::kMeanLogprob).kept == Ids{1, 4});
  CHECK(Run(2, SelectScore::kLatestVerdict).kept == Ids{2, 3});
  CHECK(Run(2, SelectScore::kSumVerdicts).kept == Ids{1, 4});
  CHECK(Run(1, SelectScore::kMeanLogprob).scores == std::vector<double>{-1, -1.5, -2, -2.5});
}

TEST_CASE("ties go to the lower branch number, whatever the order of the candidates") {
  std::vector<SelectCandidate> reversed(kCandidates.rbegin(), kCandidates.rend());
  const SelectOutcome outcome = Select({3, SelectScore::kSumLogprob, SelectScope::kLevel}, reversed);
  CHECK(outcome.kept == Ids{2, 3, 1});
  CHECK(outcome.pruned == Ids{4});
  CHECK(outcome.scores == std::vector<double>{-2, -5, -6, -6});
}

TEST_CASE("siblings are compared within their group") {
  const SelectOutcome outcome = Run(1, SelectScore::kSumLogprob, SelectScope::kSiblings);
  CHECK(outcome.kept == Ids{2, 3});
  CHECK(outcome.pruned == Ids{1, 4});
}

TEST_CASE("more places than branches keep all of them") {
  const SelectOutcome outcome = Run(9, SelectScore::kSumLogprob);
  CHECK(outcome.kept == Ids{2, 3, 1, 4});
  CHECK(outcome.pruned.empty());
}

TEST_CASE("infinite and undefined scores are ranked last") {
  std::vector<SelectCandidate> candidates = kCandidates;
  candidates[1].sum_logprob = std::numeric_limits<double>::quiet_NaN();
  candidates[2].sum_logprob = -std::numeric_limits<double>::infinity();
  const SelectOutcome outcome = Select({1, SelectScore::kSumLogprob, SelectScope::kLevel}, candidates);
  CHECK(outcome.kept == Ids{1});
  CHECK(outcome.pruned == Ids{4, 3, 2});
}

TEST_CASE("a path that failed is worse than any other, whatever it is compared by") {
  std::vector<SelectCandidate> candidates = kCandidates;
  candidates[0].failed = true;
  candidates[2].failed = true;
  for (SelectCandidate& candidate : candidates) {
    if (candidate.failed) continue;
    candidate.sum_logprob = candidate.sum_verdicts = -1e300;
    candidate.latest_verdict = -std::numeric_limits<double>::infinity();
  }
  for (const SelectScore score : {SelectScore::kSumLogprob, SelectScore::kMeanLogprob,
                                  SelectScore::kLatestVerdict, SelectScore::kSumVerdicts}) {
    const SelectOutcome outcome = Select({3, score, SelectScope::kLevel}, candidates);
    Ids ranked = outcome.kept;
    ranked.insert(ranked.end(), outcome.pruned.begin(), outcome.pruned.end());
    CHECK(Ids(ranked.end() - 2, ranked.end()) == Ids{1, 3});
    CHECK(outcome.scores[2] == -std::numeric_limits<double>::infinity());
  }
}

// The plain definition: a branch is kept if fewer than `keep` of its group beat it.
bool Kept(const SelectSpec& spec, const std::vector<SelectCandidate>& all, const SelectCandidate& candidate) {
  int32_t better = 0;
  for (const SelectCandidate& other : all) {
    if (spec.scope == SelectScope::kSiblings && other.group != candidate.group) continue;
    const double a = ScoreOf(other, spec.score);
    const double b = ScoreOf(candidate, spec.score);
    if (a > b || (a == b && other.branch < candidate.branch)) ++better;
  }
  return better < spec.keep;
}

TEST_CASE("random selections keep exactly the branches that few enough beat") {
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int32_t round = 0; round < 2000; ++round) {
    std::vector<SelectCandidate> all(random() % 12);
    for (size_t i = 0; i < all.size(); ++i) {
      all[i] = {.branch = static_cast<int32_t>(i) * 3,
                .group = static_cast<int32_t>(random() % 3),
                .sum_logprob = -static_cast<double>(random() % 5),
                .generated_tokens = static_cast<int64_t>(1 + random() % 3)};
    }
    std::shuffle(all.begin(), all.end(), random);
    const SelectSpec spec = {static_cast<int32_t>(1 + random() % 4),
                             random() % 2 == 0 ? SelectScore::kSumLogprob : SelectScore::kMeanLogprob,
                             random() % 2 == 0 ? SelectScope::kLevel : SelectScope::kSiblings};
    const SelectOutcome outcome = Select(spec, all);
    CHECK(outcome.kept.size() + outcome.pruned.size() == all.size());
    CHECK(outcome.scores.size() == all.size());
    for (const SelectCandidate& candidate : all) {
      const bool kept = std::count(outcome.kept.begin(), outcome.kept.end(), candidate.branch) == 1;
      CHECK(kept == Kept(spec, all, candidate));
    }
  }
}

}  // namespace
}  // namespace espalier
