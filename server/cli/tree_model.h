#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "espalier/v1/tree.pb.h"

namespace espalier::cli {

// A tree as it grows on the client's side: the request and what events have reported so far.
class TreeModel {
 public:
  enum class State : uint8_t { kGrowing, kDone, kPruned };

  struct Branch {
    int32_t number = 0;
    int32_t parent = -1;
    std::string node_id;
    bool generated = false;
    std::string text;
    double sum_logprob = 0.0;  // of this branch's reported tokens
    bool has_logprob = false;
    State state = State::kGrowing;
    bool failed = false;  // ended with an error
    double score = 0.0;   // of the latest selection that weighed this branch
    bool has_score = false;
    bool winner = false;  // on the path that the last selection put first
    std::vector<int32_t> children;
  };

  explicit TreeModel(const v1::GenerateRequest& request);
  void Apply(const v1::GenerateResponse& response);

  // Branch 0 is the root.
  const std::map<int32_t, Branch>& branches() const { return branches_; }
  const v1::GenerateRequest& request() const { return request_; }
  const v1::Started& started() const { return started_; }
  const v1::Usage& usage() const { return usage_; }
  bool finished() const { return finished_; }
  // Of the prefill under way; empty where there is none.
  const v1::Progress& progress() const { return progress_; }
  // Generated branches that tokens still come for.
  int32_t growing() const { return growing_; }
  int64_t generated_tokens() const { return generated_tokens_; }
  bool has_winner() const { return winner_ >= 0; }
  // Text of all branches below the root on the way to a branch.
  std::string PathText(int32_t branch) const;
  // The branch that the last selection put first, or the terminal branch that continues it; -1 where there
  // was no selection.
  int32_t winner() const;
  // The terminal branch whose path is best: below the winner, if there is one, the path with the highest sum
  // of log-probabilities of all generated and scored tokens (ties to the lower number). Not of those that
  // were pruned or failed, -1: no branch is left.
  int32_t Best() const;

 private:
  void Apply(const v1::TreeDelta& delta);
  void Apply(const v1::Selected& selected);
  void Apply(const v1::Finished& finished);
  Branch& BranchOf(int32_t number, int32_t parent, const std::string& node_id);
  void SetState(Branch& branch, State state);
  void MarkWinner();

  v1::GenerateRequest request_;
  std::map<std::string, bool> node_generates_;
  std::map<int32_t, Branch> branches_;
  v1::Started started_;
  v1::Progress progress_;
  v1::Usage usage_;
  int32_t growing_ = 0;
  int64_t generated_tokens_ = 0;
  int32_t winner_ = -1;
  bool finished_ = false;
};

}  // namespace espalier::cli
