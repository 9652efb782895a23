#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "engine/given_runs.h"
#include "engine/sequence.h"
#include "kernels/step_input.h"

namespace espalier {

class RequestTree;

// The sequences of one request: one for each branch, and the runs of its given nodes, which are instances of
// RunPlans. Says what has to be computed and what continues what; knows nothing of memory and steps. Grows
// with the RequestTree that it belongs to. Not thread-safe.
class SequenceForest {
 public:
  // `tree` outlives this.
  SequenceForest(const RequestTree* tree, RunPlans plans) : tree_(tree), plans_(std::move(plans)) {}

  // Branches' sequences have the branches' numbers. References stay valid.
  Sequence& at(int32_t number) {
    return number < kFirstRun ? branches_[static_cast<size_t>(number)]
                              : runs_[static_cast<size_t>(number - kFirstRun)];
  }
  const Sequence& at(int32_t number) const { return const_cast<SequenceForest*>(this)->at(number); }

  // Growth, by the RequestTree.

  // Makes the runs of what follows from `owner`, a node or a selection below it, for the branch `parent`.
  // Returns the group; -1: the children do without.
  int32_t OpenGroup(int32_t parent, int32_t owner);
  // The sequence of a branch that has just been created, as a member of the group (-1: of none).
  void Add(const Branch& created, int32_t group, bool awaits_result);
  // The first token of the generated branch will be sampled with a row of its group's runs, or with the row
  // of its parent's last token.
  void AwaitFirstToken(int32_t branch);
  // The branch takes part in so many more (fewer) unresolved selections: what holds its tokens is needed.
  void ChangeBarriers(int32_t branch, int32_t change);

  // Runs that were created since the last call, by number.
  std::vector<int32_t> TakeNewRuns() { return std::exchange(new_runs_, {}); }

  // Of a run: where the row of a use is, whom a kScore or kRead use is for, and whose first tokens are
  // sampled with a kSample use.
  int32_t UsePosition(const Sequence& run, const RunUse& use) const {
    return groups_[static_cast<size_t>(run.group)].base_position + use.depth;
  }
  int32_t UseBranch(const Sequence& run, const RunUse& use) const {
    return groups_[static_cast<size_t>(run.group)].branches[static_cast<size_t>(use.member)];
  }
  std::vector<int32_t> TakeAwaiting(Sequence* run, const RunUse& use);
  // A branch that needs the run.
  int32_t BranchOfRun(const Sequence& run) const;
  // The position of the first use that has not been issued; the run's end where there is none.
  int32_t NextUsePosition(const Sequence& run) const;
  // Tokens of given branches that lie at positions [run.start_position, end): each branch counts.
  int32_t GivenTokensBefore(const Sequence& run, int32_t end) const;

  // Tokens from the root, or from a position on, to the end of the sequence.
  std::vector<int32_t> PathTokens(const Sequence& of, int32_t begin = 0) const;

  // Rows that given tokens, and the last tokens of branches that something continues, take where each is run
  // once: those that are needed, equal paths merged.
  int64_t distinct_tokens() const { return distinct_tokens_; }

 private:
  // The runs of given nodes that continue one branch.
  struct RunGroup {
    const RunPlan* plan = nullptr;
    int32_t parent = -1;            // the branch; -1: the group has the root
    int32_t base_position = 0;      // of depth 0
    int32_t first_run = 0;          // number of the plan's first
    int32_t source = -1;            // what is continued where the plan has no runs
    std::vector<int32_t> branches;  // [members]
  };

  bool IsGiven(const Sequence& of) const;
  const RunPlan* PlanFor(const Sequence& parent, int32_t owner) const;
  void CreateRun(int32_t group, const Run& run);
  void JoinGroup(Sequence* created, int32_t group);
  void CountTail(Sequence* of, int32_t tokens);

  const RequestTree* tree_;
  RunPlans plans_;
  std::deque<Sequence> branches_;  // by number
  std::deque<Sequence> runs_;      // the same, from kFirstRun on
  std::vector<RunGroup> groups_;
  std::vector<int32_t> new_runs_;
  int64_t distinct_tokens_ = 0;
};

}  // namespace espalier
