#include "engine/tree_cost.h"

#include <algorithm>
#include <limits>

namespace espalier {
namespace {

int64_t Product(int64_t a, int64_t b) { return a > kCostLimit / b ? kCostLimit : a * b; }
int64_t Sum(int64_t a, int64_t b) { return std::min(a + b, kCostLimit); }

struct NodeState {
  int64_t depth = 1;   // nodes on the path, this one included
  int64_t groups = 1;  // sets of siblings among the branches at the node
  int64_t leaves_below = 0;
};

class Coster {
 public:
  Coster(const TreeRequest& request, int32_t block_tokens)
      : request_(request), block_tokens_(block_tokens), states_(request.nodes.size()) {
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
    }
    if (const auto* given = std::get_if<GivenSpec>(&spec.content)) {
      AddTokens(i, static_cast<int64_t>(given->token_ids.size()));
    } else if (const auto* generate = std::get_if<GenerateSpec>(&spec.content)) {
      if (generate->branches > 1) state.groups = node.branches;
      node.branches = Product(node.branches, generate->branches);
      AddTokens(i, generate->max_new_tokens);
    } else {
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
  std::vector<NodeState> states_;
  TreeCost cost_;
};

}  // namespace

TreeCost CostOf(const TreeRequest& request, int32_t block_tokens) {
  return Coster(request, block_tokens).Run();
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
