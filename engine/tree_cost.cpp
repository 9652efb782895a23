#include "engine/tree_cost.h"

#include <algorithm>

namespace espalier {
namespace {

int64_t Product(int64_t a, int64_t b) { return a > kCostLimit / b ? kCostLimit : a * b; }
int64_t Sum(int64_t a, int64_t b) { return std::min(a + b, kCostLimit); }

struct NodeState {
  int64_t groups = 1;       // sets of siblings among the branches at the node
  int64_t blocks = 0;       // of one branch at the node
  int64_t path_blocks = 0;  // of one path to the end of the node
  bool generated = false;   // the length of the path before the node is not known beforehand
  // Of the selects between branch_parent and this node (included): the fewest branches that one keeps.
  int64_t kept_above = kCostLimit;
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
      const bool under_select = std::holds_alternative<SelectSpec>(request_.nodes[parent].content);
      node.branch_parent = under_select ? cost_.nodes[parent].branch_parent : spec.parent;
      node.branches = cost_.nodes[parent].branches;
      node.path_tokens = cost_.nodes[parent].path_tokens;
      state.groups = states_[parent].groups;
      state.generated = states_[parent].generated;
      if (under_select) state.kept_above = states_[parent].kept_above;
    }
    if (const auto* given = std::get_if<GivenSpec>(&spec.content)) {
      AddTokens(i, static_cast<int64_t>(given->token_ids.size()));
    } else if (const auto* generate = std::get_if<GenerateSpec>(&spec.content)) {
      if (generate->branches > 1) state.groups = node.branches;
      node.branches = Product(node.branches, generate->branches);
      AddTokens(i, generate->max_new_tokens);
      state.generated = true;
    } else {
      AddBarrier(i, std::get<SelectSpec>(spec.content));
    }
  }

  void AddTokens(size_t i, int64_t tokens) {
    TreeNodeCost& node = cost_.nodes[i];
    NodeState& state = states_[i];
    // The branch begins with a copy of the partly filled last block of its path.
    const int64_t tail = state.generated ? block_tokens_ - 1 : node.path_tokens % block_tokens_;
    state.blocks = (tail + tokens + block_tokens_ - 1) / block_tokens_;
    node.path_tokens = Sum(node.path_tokens, tokens);
    const int32_t parent = node.branch_parent;
    state.path_blocks = Sum(state.blocks, parent < 0 ? 0 : states_[static_cast<size_t>(parent)].path_blocks);
    cost_.min_blocks = std::max(cost_.min_blocks, state.path_blocks);
  }

  void AddBarrier(size_t i, const SelectSpec& select) {
    TreeNodeCost& node = cost_.nodes[i];
    NodeState& state = states_[i];
    const size_t parent = static_cast<size_t>(request_.nodes[i].parent);
    // A select of what another select kept waits for fewer branches than that one.
    if (static_cast<int32_t>(parent) == node.branch_parent) AddTogether(node.branch_parent, node.branches);
    const int64_t groups = select.scope == SelectScope::kLevel ? 1 : state.groups;
    node.branches = std::min(node.branches, Product(select.keep, groups));
    state.groups = std::min(state.groups, node.branches);
    state.kept_above = std::min(state.kept_above, node.branches);
  }

  // `branches` branches at a node are in memory together with their paths.
  void AddTogether(int32_t at, int64_t branches) {
    int64_t blocks = 0;
    while (at >= 0 && blocks < kCostLimit) {
      const TreeNodeCost& node = cost_.nodes[static_cast<size_t>(at)];
      const NodeState& state = states_[static_cast<size_t>(at)];
      branches = std::min(branches, node.branches);
      blocks = Sum(blocks, Product(state.blocks, branches));
      branches = std::min(branches, state.kept_above);
      at = node.branch_parent;
    }
    cost_.min_blocks = std::max(cost_.min_blocks, blocks);
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

}  // namespace espalier
