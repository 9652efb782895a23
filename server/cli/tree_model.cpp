#include "server/cli/tree_model.h"

#include <algorithm>

namespace espalier::cli {

TreeModel::TreeModel(const v1::GenerateRequest& request) : request_(request) {
  for (const v1::TreeNode& node : request.nodes()) node_generates_[node.id()] = node.has_generate();
  Branch root;
  if (!request.nodes().empty()) {
    root.node_id = request.nodes(0).id();
    root.text = request.nodes(0).given().text();
  }
  branches_[0] = std::move(root);
}

void TreeModel::Apply(const v1::GenerateResponse& response) {
  switch (response.event_case()) {
    case v1::GenerateResponse::kStarted:
      started_ = response.started();
      break;
    case v1::GenerateResponse::kProgress:
      progress_ = response.progress();
      break;
    case v1::GenerateResponse::kDelta:
      progress_.Clear();
      Apply(response.delta());
      break;
    case v1::GenerateResponse::kSelected:
      Apply(response.selected());
      break;
    case v1::GenerateResponse::kFinished:
      Apply(response.finished());
      break;
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;
  }
}

TreeModel::Branch& TreeModel::BranchOf(int32_t number, int32_t parent, const std::string& node_id) {
  Branch& branch = branches_[number];
  // A selection may have named the branch before.
  if (number != 0 && branch.parent < 0) {
    branch.number = number;
    branch.parent = parent;
    branch.node_id = node_id;
    branch.generated = node_generates_[node_id];
    branches_[parent].children.push_back(number);
    growing_ += branch.generated && branch.state == State::kGrowing ? 1 : 0;
  }
  return branch;
}

void TreeModel::Apply(const v1::TreeDelta& delta) {
  for (const v1::BranchDelta& gained : delta.branches()) {
    Branch& branch = BranchOf(gained.branch(), gained.parent_branch(), gained.node_id());
    branch.text += gained.text();
    for (const float logprob : gained.logprobs()) branch.sum_logprob += logprob;
    branch.has_logprob = branch.has_logprob || !gained.logprobs().empty();
    if (branch.generated) generated_tokens_ += gained.token_ids_size();
    branch.failed = branch.failed || gained.finish_reason() == v1::FINISH_REASON_ERROR;
    if (gained.finish_reason() == v1::FINISH_REASON_PRUNED) {
      SetState(branch, State::kPruned);
    } else if (gained.finish_reason() != v1::FINISH_REASON_UNSPECIFIED && branch.state == State::kGrowing) {
      SetState(branch, State::kDone);
    }
  }
}

void TreeModel::Apply(const v1::Selected& selected) {
  for (int i = 0; i < selected.scores_size(); ++i) {
    const bool kept = i < selected.kept_size();
    Branch& branch = branches_[kept ? selected.kept(i) : selected.pruned(i - selected.kept_size())];
    branch.score = selected.scores(i);
    branch.has_score = true;
    if (!kept) SetState(branch, State::kPruned);
  }
  if (!selected.kept().empty()) winner_ = selected.kept(0);
  MarkWinner();
}

void TreeModel::Apply(const v1::Finished& finished) {
  usage_ = finished.usage();
  finished_ = true;
  for (const v1::Branch& end : finished.branches()) {
    Branch& branch = BranchOf(end.branch(), end.parent_branch(), end.node_path(end.node_path_size() - 1));
    branch.text = end.text();
    branch.failed = branch.failed || end.finish_reason() == v1::FINISH_REASON_ERROR;
    if (end.finish_reason() == v1::FINISH_REASON_PRUNED) SetState(branch, State::kPruned);
    if (branch.state == State::kGrowing) SetState(branch, State::kDone);
  }
  MarkWinner();
}

void TreeModel::SetState(Branch& branch, State state) {
  if (branch.generated && branch.state == State::kGrowing && state != State::kGrowing) --growing_;
  branch.state = state;
}

int32_t TreeModel::Best() const {
  struct Step {
    int32_t branch;
    double sum_logprob;  // of the path above
  };
  std::vector<Step> steps = {{std::max(winner(), 0), 0.0}};
  int32_t best = -1;
  double best_sum = 0.0;
  while (!steps.empty()) {
    const Step step = steps.back();
    steps.pop_back();
    const Branch& branch = branches_.at(step.branch);
    if (branch.state == State::kPruned || branch.failed) continue;
    const double sum = step.sum_logprob + branch.sum_logprob;
    for (const int32_t child : branch.children) steps.push_back({child, sum});
    if (!branch.children.empty() || branch.number == 0) continue;
    const bool better = best < 0 || sum > best_sum || (sum == best_sum && branch.number < best);
    if (!better) continue;
    best = branch.number;
    best_sum = sum;
  }
  return best;
}

int32_t TreeModel::winner() const {
  int32_t number = winner_;
  while (number >= 0) {
    const Branch& branch = branches_.at(number);
    if (branch.children.size() != 1) break;
    number = branch.children.front();
  }
  return number;
}

void TreeModel::MarkWinner() {
  for (auto& [number, branch] : branches_) branch.winner = false;
  for (int32_t number = winner(); number > 0; number = branches_[number].parent)
    branches_[number].winner = true;
}

std::string TreeModel::PathText(int32_t branch) const {
  std::vector<const Branch*> path;
  for (int32_t number = branch; number > 0; number = branches_.at(number).parent) {
    path.push_back(&branches_.at(number));
  }
  std::string text;
  for (auto step = path.rbegin(); step != path.rend(); ++step) text += (*step)->text;
  return text;
}

}  // namespace espalier::cli
