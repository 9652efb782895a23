#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/prefill_budget.h"
#include "engine/scheduler_options.h"
#include "engine/sequence_opener.h"
#include "engine/step_builder.h"
#include "engine/turns.h"

namespace espalier {

// Who gets the rows of a step: how they are shared between decoding and prefill, and among peers and
// requests. Not thread-safe.
class RowScheduler {
 public:
  // All outlive this.
  RowScheduler(const SchedulerOptions& options, const RequestTable* requests, TailNodes* tails,
               SequenceOpener* opener, Turns* turns, StepBuilder* builder)
      : options_(options),
        policy_(options.policy),
        requests_(*requests),
        tails_(*tails),
        opener_(*opener),
        turns_(*turns),
        builder_(*builder) {}

  // Issues what the step has room for.
  void FillStep();

 private:
  using Candidates = std::vector<Candidate>;
  using Group = std::span<Candidate>;  // of one request
  static constexpr size_t kUrgencies = 3;

  void CollectCandidates();
  bool IsDecode(const ScheduledRequest& request, const Sequence& sequence) const;
  std::array<Candidates, kUrgencies> ByUrgency(const Candidates& candidates) const;
  Candidates LimitDecode(int32_t rows);
  std::vector<size_t> ShareDecodeRows(const std::vector<Group>& groups, size_t rows) const;
  void IssueRow(const Candidate& candidate);
  PrefillBudget BudgetForPrefill() const;
  void IssuePrefill(Candidates* prefill, int32_t units, PrefillBudget* budget);
  void IssueOneRow();
  int32_t NextPosition(const Candidate& candidate) const;
  static std::vector<Group> GroupByRequest(Candidates* candidates);
  static std::vector<std::vector<size_t>> GroupByPeer(const std::vector<Group>& groups);

  const SchedulerOptions& options_;
  const SchedulingPolicy& policy_;
  const RequestTable& requests_;
  TailNodes& tails_;
  SequenceOpener& opener_;
  Turns& turns_;
  StepBuilder& builder_;

  // Sequences with rows to issue, of the step being planned: in the order of turns, then by number.
  Candidates decode_;
  Candidates prefill_;
};

}  // namespace espalier
