#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "engine/branch.h"
#include "engine/given_runs.h"
#include "engine/select.h"
#include "engine/tree_event.h"
#include "engine/tree_request.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

struct TreeContext {
  const Tokenizer* tokenizer = nullptr;  // null: no text
  std::vector<int32_t> eos_token_ids;
  int32_t max_path_tokens = 0;
};

// The answer to one request as it grows: which branches there are, what they say, when a barrier is resolved.
// Knows nothing of memory, steps or other requests.
class RequestTree {
 public:
  // A template and its instances.
  struct Node {
    std::vector<int32_t> children;  // nodes but selections
    std::vector<int32_t> selects;
    bool generates_below = false;  // a child is generated
    int32_t first_ordinal = 0;
    std::shared_ptr<const std::vector<std::string>> stop_strings;
    std::string given_text;         // of given nodes but the root
    std::vector<int32_t> branches;  // instances; of a selection: what it kept
    int32_t spawned = 0;            // instances whose children exist
    int32_t finished = 0;
    bool closed = false;           // no further instances will come
    bool children_closed = false;  //
    uint64_t params_step = 0;      // scratch of the step being built: where its SamplingParams are
    int32_t params_index = 0;
  };

  // Takes time that grows with the request; on any thread. Precondition: ValidateTreeRequest. `context`
  // outlives this.
  RequestTree(TreeRequest request, const TreeContext* context);

  // Creates branch 0, and what follows from it. Call once; then as Grow.
  void Start(std::vector<int32_t>* created);

  const TreeRequest& request() const { return request_; }
  // Branches of the answer: numbers [0, size). Runs have numbers of their own.
  int32_t size() const { return static_cast<int32_t>(branches_.size()); }
  Branch& branch(int32_t number) {
    return number < kFirstRun ? branches_[static_cast<size_t>(number)]
                              : runs_[static_cast<size_t>(number - kFirstRun)];
  }
  const Branch& branch(int32_t number) const { return const_cast<RequestTree*>(this)->branch(number); }
  Node& node(int32_t index) { return nodes_[static_cast<size_t>(index)]; }
  // Null where the branch's node is of the other kind.
  const GivenSpec* given(const Branch& of) const {
    return std::get_if<GivenSpec>(&request_.nodes[static_cast<size_t>(of.node)].content);
  }
  const GenerateSpec* generate(const Branch& of) const {
    return std::get_if<GenerateSpec>(&request_.nodes[static_cast<size_t>(of.node)].content);
  }

  // The most tokens that a generated branch can draw: its limit, or the room on its path.
  int32_t DrawLimit(const Branch& of) const;

  // Takes one drawn token, or none where the draw failed: `text` is what it adds. The branch is finished if a
  // reason results. Precondition: generated, not finished.
  void TakeToken(Branch* of, const TokenResult& token, std::string* text);

  // All scores of a scored given branch are known: it is finished, with kError if one of them failed.
  void TakeScores(Branch* of);

  // An unscored given tip has been computed.
  void FinishGiven(Branch* of);

  // Runs that were created since the last call, by number.
  std::vector<int32_t> TakeNewRuns() { return std::exchange(new_runs_, {}); }
  // Of a run: where the row of a use is, whom a kScore or kRead use is for, and whose first tokens are drawn
  // with a kDraw use.
  int32_t UsePosition(const Branch& run, const RunUse& use) const {
    return groups_[static_cast<size_t>(run.group)].base_position + use.depth;
  }
  int32_t UseBranch(const Branch& run, const RunUse& use) const {
    return groups_[static_cast<size_t>(run.group)].branches[static_cast<size_t>(use.member)];
  }
  std::vector<int32_t> TakeAwaiting(Branch* run, const RunUse& use);
  // A branch that needs the run.
  int32_t BranchOfRun(const Branch& run) const;
  // The position of the first use that has not been issued; the run's end where there is none.
  int32_t NextUsePosition(const Branch& run) const;
  // Tokens of given branches that lie at positions [run.start_position, end): each branch counts.
  int32_t GivenTokensBefore(const Branch& run, int32_t end) const;

  // Rows that the answer takes where each is run once: of the given tokens, those that are needed, equal
  // paths merged; of each generated branch all but the last, and that one if something continues it.
  int64_t distinct_tokens() const { return distinct_tokens_; }

  // After some branches finished: creates the branches that follow, resolves barriers, until about `budget`
  // candidates and branches have been looked at. Appends the numbers of new branches, the selections, and the
  // branches that took part in them.
  void Grow(int64_t budget, std::vector<int32_t>* created, std::vector<TreeSelected>* selected,
            std::vector<int32_t>* candidates);

  // Barriers are left that the next Grow resolves.
  bool growing() const { return !ready_selects_.empty(); }
  bool done() const { return unfinished_ == 0 && !growing(); }
  // Tokens from the root, or from a position on, to the end of the branch.
  std::vector<int32_t> PathTokens(const Branch& of, int32_t begin = 0) const;
  // How often each kind of token stands on the path, for penalties: given ones and generated ones.
  void PathHistory(const Branch& of, SlotHistory* history) const;
  std::vector<BranchSummary> Summaries() const;

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

  int32_t OpenGroup(int32_t parent, int32_t owner);
  const RunPlan* PlanFor(const Branch& parent, int32_t owner) const;
  void CreateRun(int32_t group, const Run& run);
  void JoinGroup(Branch* created, int32_t group);
  void ChangeBarriers(Branch* of, int32_t change);
  void CountTail(Branch* of, int32_t tokens);

  void CreateBranches(int32_t parent, int32_t node, int32_t group, std::vector<int32_t>* created);
  int32_t CreateBranch(int32_t parent, int32_t node, int32_t ordinal, int32_t group);
  std::string TextOf(const GivenSpec& spec) const;
  void InitGiven(Branch* created, const GivenSpec& spec);
  void InitGenerated(Branch* created);
  void FinishDead(Branch* created);
  SelectCandidate CandidateOf(const Branch& of) const;
  void Spawn(int32_t number, std::vector<int32_t>* created);
  void Finish(Branch* of, FinishReason reason);
  void Close(int32_t first);
  void CheckBarrier(int32_t index);
  void CheckBarriersBelow(int32_t first);
  bool VerdictsKnown(const Branch& of) const;
  void Resolve(int32_t index, std::vector<int32_t>* created, std::vector<TreeSelected>* selected,
               std::vector<int32_t>* taking_part);

  TreeRequest request_;
  const TreeContext* context_;
  std::vector<Node> nodes_;
  RunPlans plans_;
  std::deque<Branch> branches_;  // by number; references stay valid
  std::deque<Branch> runs_;      // the same, from kFirstRun on
  std::vector<RunGroup> groups_;
  std::vector<int32_t> new_runs_;
  int64_t distinct_tokens_ = 0;
  std::vector<int32_t> to_spawn_;
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> ready_selects_;  // in order of nodes
  int32_t unfinished_ = 0;
};

}  // namespace espalier
