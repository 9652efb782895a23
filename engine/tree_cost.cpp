#include "engine/tree_cost.h"

#include <algorithm>
#include <limits>

namespace espalier {
namespace {

int64_t Product(int64_t a, int64_t b) { return a > kCostLimit / b ? kCostLimit : a * b; }
int64_t Sum(int64_t a, int64_t b) { return std::min(a + b, kCostLimit); }

int64_t VarintBytes(int64_t value) {
  int64_t bytes = 1;
  for (; value >= 128; value /= 128) ++bytes;
  return bytes;
}

struct NodeState {
  int64_t depth = 1;   // nodes on the path, this one included
  int64_t groups = 1;  // sets of siblings among the branches at the node
  int64_t leaves_below = 0;
  int64_t path_id_bytes = 0;  // of the ids of the nodes on the path, this one included, as a list
};

// Bytes of the messages of espalier.v1, at most: numbers of branches, lengths, tags, reasons.
constexpr int64_t kListedBytes = 3;      // tag and length of a node id, of a token's list
constexpr int64_t kDeltaBytes = 32;      // a BranchDelta without id, tokens and text
constexpr int64_t kBranchBytes = 50;     // a Branch, likewise
constexpr int64_t kCandidateBytes = 13;  // of a Selected: a number and a score
constexpr int64_t kLogprobBytes = 4;
constexpr int64_t kTopLogprobBytes = 8;  // without the token's id

class Coster {
 public:
  Coster(const TreeRequest& request, const EngineLimits& limits)
      : request_(request),
        block_tokens_(limits.block_tokens),
        token_bytes_(VarintBytes(limits.vocab_size)),
        states_(request.nodes.size()) {
    cost_.nodes.resize(request.nodes.size());
  }

  TreeCost Run() {
    for (size_t i = 0; i < request_.nodes.size(); ++i) Descend(i);
    for (size_t i = request_.nodes.size(); i-- > 0;) CountLeaves(i);
    cost_.leaves = states_[0].leaves_below;
    return std::move(cost_);
  }

 private:
  void Descend(size_t i) {
    const TreeNodeSpec& spec = request_.nodes[i];
    TreeNodeCost& node = cost_.nodes[i];
    NodeState& state = states_[i];
    const size_t parent = i == 0 ? 0 : static_cast<size_t>(spec.parent);
    if (i == 0) {
      node.branches = 1;
    } else {
      node.branches = cost_.nodes[parent].branches;
      node.path_tokens = cost_.nodes[parent].path_tokens;
      state.groups = states_[parent].groups;
      state.depth = states_[parent].depth + 1;
      state.path_id_bytes = states_[parent].path_id_bytes;
    }
    state.path_id_bytes += static_cast<int64_t>(spec.id.size()) + kListedBytes;
    if (const auto* given = std::get_if<GivenSpec>(&spec.content)) {
      const auto tokens = static_cast<int64_t>(given->token_ids.size());
      AddTokens(i, tokens);
      if (i > 0) AddAnswer(i, 1, tokens, given->score, given->top_logprobs);
      if (i == 0 && request_.return_prompt_ids) AddAnswerBytes(i, Product(tokens, token_bytes_));
    } else if (const auto* generate = std::get_if<GenerateSpec>(&spec.content)) {
      if (generate->branches > 1) state.groups = node.branches;
      node.branches = Product(node.branches, generate->branches);
      AddTokens(i, generate->max_new_tokens);
      AddAnswer(i, generate->max_new_tokens, generate->max_new_tokens, true, generate->top_logprobs);
    } else {
      AddAnswerBytes(i, Product(node.branches, kCandidateBytes));
      AddAnswerBytes(i, kDeltaBytes + static_cast<int64_t>(spec.id.size()));
      cost_.answer_entries = Sum(cost_.answer_entries, node.branches);
      Cut(i, std::get<SelectSpec>(spec.content));
      return;
    }
    cost_.answer_entries = Sum(cost_.answer_entries, Product(node.branches, state.depth));
  }

  void AddTokens(size_t i, int64_t tokens) {
    TreeNodeCost& node = cost_.nodes[i];
    node.path_tokens = Sum(node.path_tokens, tokens);
    cost_.min_blocks = std::max(cost_.min_blocks, (node.path_tokens + block_tokens_ - 1) / block_tokens_);
  }

  // Of each branch at the node: its deltas, and its part of what is repeated at the end.
  void AddAnswer(size_t i, int64_t deltas, int64_t tokens, bool logprobs, int64_t top_logprobs) {
    const auto id_bytes = static_cast<int64_t>(request_.nodes[i].id.size());
    const int64_t logprob_bytes = logprobs ? kLogprobBytes : 0;
    const int64_t repeated =
        token_bytes_ + kTextBytesPerToken + (request_.return_logprobs ? logprob_bytes : 0);
    int64_t once = token_bytes_ + kTextBytesPerToken + logprob_bytes;
    if (top_logprobs > 0) once += kListedBytes + top_logprobs * (kTopLogprobBytes + token_bytes_);
    int64_t branch = Product(deltas, kDeltaBytes + id_bytes);
    branch = Sum(branch, Product(tokens, once + repeated));
    branch = Sum(branch, kBranchBytes + states_[i].path_id_bytes);
    AddAnswerBytes(i, Product(cost_.nodes[i].branches, branch));
  }

  void AddAnswerBytes(size_t i, int64_t bytes) {
    cost_.nodes[i].answer_bytes = Sum(cost_.nodes[i].answer_bytes, bytes);
    cost_.answer_bytes = Sum(cost_.answer_bytes, bytes);
  }

  void Cut(size_t i, const SelectSpec& select) {
    TreeNodeCost& node = cost_.nodes[i];
    NodeState& state = states_[i];
    const int64_t groups = select.scope == SelectScope::kLevel ? 1 : state.groups;
    node.branches = std::min(node.branches, Product(select.keep, groups));
    state.groups = std::min(state.groups, node.branches);
  }

  // A branch that waits at a barrier is a leaf, unless other nodes continue it meanwhile.
  void CountLeaves(size_t i) {
    NodeState& state = states_[i];
    const bool is_select = std::holds_alternative<SelectSpec>(request_.nodes[i].content);
    if (!is_select) state.leaves_below = std::max(state.leaves_below, cost_.nodes[i].branches);
    if (i == 0) return;
    NodeState& parent = states_[static_cast<size_t>(request_.nodes[i].parent)];
    parent.leaves_below = Sum(parent.leaves_below, state.leaves_below);
  }

  const TreeRequest& request_;
  const int32_t block_tokens_;
  const int64_t token_bytes_;  // of an id, encoded
  std::vector<NodeState> states_;
  TreeCost cost_;
};

}  // namespace

TreeCost CostOf(const TreeRequest& request, const EngineLimits& limits) {
  return Coster(request, limits).Run();
}

int32_t FirstBranches(const TreeRequest& request) {
  std::vector<bool> known(request.nodes.size());  // nothing on the path is generated
  int64_t branches = 0;
  for (size_t i = 0; i < known.size(); ++i) {
    const TreeNodeSpec& spec = request.nodes[i];
    const bool parent_known = i == 0 || known[static_cast<size_t>(spec.parent)];
    known[i] = parent_known && std::holds_alternative<GivenSpec>(spec.content);
    const auto* generate = std::get_if<GenerateSpec>(&spec.content);
    if (parent_known && generate != nullptr) branches = Sum(branches, generate->branches);
  }
  return static_cast<int32_t>(std::clamp<int64_t>(branches, 1, std::numeric_limits<int32_t>::max()));
}

}  // namespace espalier
