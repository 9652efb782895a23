#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "engine/branch.h"
#include "engine/branch_forest.h"
#include "engine/select.h"
#include "engine/sequence_forest.h"
#include "engine/tree_event.h"
#include "engine/tree_request.h"

namespace espalier {

// The answer to one request as it grows by its template, the nodes of the request: which branches follow from
// which, and when a barrier is resolved. Knows nothing of memory, steps or other requests.
class RequestTree {
 public:
  // Takes time that grows with the request; on any thread. Precondition: ValidateTreeRequest. `context`
  // outlives this.
  RequestTree(TreeRequest request, const TreeContext* context);
  RequestTree(const RequestTree&) = delete;
  RequestTree& operator=(const RequestTree&) = delete;

  // Creates branch 0, and what follows from it. Call once; then as Expand.
  void Start(std::vector<int32_t>* created);

  const TreeRequest& request() const { return request_; }
  // Branches: numbers [0, size).
  int32_t size() const { return branches_.size(); }
  const Branch& branch(int32_t number) const { return branches_.at(number); }
  // What computes them. Those who run them write there; nothing here reads what they write.
  SequenceForest& sequences() { return sequences_; }
  const SequenceForest& sequences() const { return sequences_; }
  // Null where the branch's node is of the other kind.
  const GivenSpec* given(const Branch& of) const {
    return std::get_if<GivenSpec>(&request_.nodes[static_cast<size_t>(of.node)].content);
  }
  const GenerateSpec* generate(const Branch& of) const {
    return std::get_if<GenerateSpec>(&request_.nodes[static_cast<size_t>(of.node)].content);
  }

  // Whether a child of the node, or of the selection, is generated.
  bool GeneratesBelow(int32_t node) const { return nodes_[static_cast<size_t>(node)].generates_below; }

  // The most tokens that a generated branch can sample: its limit, or the room on its path.
  int32_t SampleLimit(const Branch& of) const;

  // Takes one sampled token, or none where sampling failed: `text` is what it adds. The branch is finished if
  // a reason results. Precondition: generated, not finished.
  void TakeToken(int32_t branch, const TokenResult& token, std::string* text);

  // Takes the next score of a scored given branch. True: that was the last one. It is finished, with kError
  // if one of them failed.
  bool TakeScore(int32_t branch, const TokenResult& score);
  // The scores have been reported: what the end does not repeat is freed.
  void DropScores(int32_t branch) { branches_.DropScores(branch); }

  // An unscored given terminal branch has been computed.
  void FinishGiven(int32_t branch);

  // Rows that the answer takes where each is run once: of the given tokens, those that are needed, equal
  // paths merged; of each generated branch all but the last, and that one if something continues it.
  int64_t distinct_tokens() const { return generated_rows_ + sequences_.distinct_tokens(); }

  // After some branches finished: creates the branches that follow, resolves barriers, until about `budget`
  // candidates and branches have been looked at. Appends the numbers of new branches, the selections, and the
  // branches that took part in them.
  void Expand(int64_t budget, std::vector<int32_t>* created, std::vector<TreeSelected>* selected,
              std::vector<int32_t>* candidates);

  // Barriers are left that the next Expand resolves.
  bool expanding() const { return !ready_selects_.empty(); }
  bool done() const { return unfinished_ == 0 && !expanding() && !open_; }
  // All that was asked for is there, and the client may ask for more.
  bool waits_for_client() const { return unfinished_ == 0 && !expanding() && open_; }
  void Close() { open_ = false; }  // the client asks for nothing more
  // See BranchForest.
  std::shared_ptr<const PathHistory> History(int32_t branch) { return branches_.History(branch); }
  // The answer as a whole, once. Precondition: done.
  std::vector<BranchSummary> TakeSummaries() { return branches_.TakeSummaries(); }

 private:
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
    bool children_closed = false;  // no further children will
  };

  Node& node(int32_t index) { return nodes_[static_cast<size_t>(index)]; }
  void CreateBranches(int32_t parent, int32_t node, int32_t group, std::vector<int32_t>* created);
  int32_t CreateBranch(int32_t parent, int32_t node, int32_t ordinal, int32_t group);
  void InitGiven(const Branch& created);
  void InitGenerated(const Branch& created);
  void Spawn(int32_t number, std::vector<int32_t>* created);
  void Finish(const Branch& of, FinishReason reason);
  void Close(int32_t first);
  void CheckBarrier(int32_t index);
  void CheckBarriersBelow(int32_t first);
  void Resolve(int32_t index, std::vector<int32_t>* created, std::vector<TreeSelected>* selected,
               std::vector<int32_t>* taking_part);

  TreeRequest request_;
  std::vector<Node> nodes_;
  SequenceForest sequences_;
  BranchForest branches_;
  int64_t generated_rows_ = 0;
  std::vector<int32_t> to_spawn_;
  std::priority_queue<int32_t, std::vector<int32_t>, std::greater<>> ready_selects_;  // in order of nodes
  int32_t unfinished_ = 0;                                                            // branches
  bool open_ = false;
};

}  // namespace espalier
