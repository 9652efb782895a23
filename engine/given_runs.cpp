#include "engine/given_runs.h"

#include <algorithm>
#include <map>
#include <span>
#include <utility>

namespace espalier {
namespace {

// What stands directly below a node.
struct Below {
  bool generates = false;
  bool selects = false;
  bool given = false;
};

// The trie of one group. Edge 0 has no tokens and stands for the branch that the group continues.
class Trie {
 public:
  struct Edge {
    int32_t parent = -1;
    int32_t begin = 0;  // depth
    std::span<const int32_t> tokens;
    int32_t member = -1;       // the first that asked for it
    bool ends_a_run = false;   // something may continue from its end later
    std::vector<RunUse> uses;  // by member
    std::vector<RunSpan> spans;

    int32_t end() const { return begin + static_cast<int32_t>(tokens.size()); }
  };

  Trie() : edges_(1) {}

  Edge& edge(int32_t id) { return edges_[static_cast<size_t>(id)]; }
  int32_t size() const { return static_cast<int32_t>(edges_.size()); }

  // The edge that ends `tokens` further below the end of edge `from`; makes what is missing. An edge that is
  // cut keeps its id for its lower part, so that ids of edge ends stay.
  int32_t Insert(int32_t from, std::span<const int32_t> tokens, int32_t member) {
    const int32_t last = Walk(from, &tokens);
    if (tokens.empty()) return last;
    return NewEdge(last, tokens, member);
  }

  // Goes down while edges have the tokens, cuts the last one where they end or differ. Leaves the tokens that
  // no edge has.
  int32_t Walk(int32_t from, std::span<const int32_t>* tokens) {
    while (!tokens->empty()) {
      const auto found = children_.find(Key(from, tokens->front()));
      if (found == children_.end()) break;
      const std::span<const int32_t> there = edge(found->second).tokens;
      const size_t limit = std::min(there.size(), tokens->size());
      const auto differ =
          std::mismatch(there.begin(), there.begin() + static_cast<ptrdiff_t>(limit), tokens->begin());
      const size_t same = static_cast<size_t>(differ.first - there.begin());
      *tokens = tokens->subspan(same);
      from = same == there.size() ? found->second : CutOff(found->second, same);
    }
    return from;
  }

 private:
  static uint64_t Key(int32_t parent, int32_t token) {
    return (uint64_t{static_cast<uint32_t>(parent)} << 32) | static_cast<uint32_t>(token);
  }

  int32_t NewEdge(int32_t parent, std::span<const int32_t> tokens, int32_t member) {
    const int32_t id = size();
    Edge& created = edges_.emplace_back();
    created.parent = parent;
    created.begin = edge(parent).end();
    created.tokens = tokens;
    created.member = member;
    children_[Key(parent, tokens.front())] = id;
    return id;
  }

  // Makes an edge of the first `tokens` tokens.
  int32_t CutOff(int32_t id, size_t tokens) {
    const std::span<const int32_t> whole = edge(id).tokens;
    const int32_t upper = NewEdge(edge(id).parent, whole.first(tokens), edge(id).member);
    Edge& lower = edge(id);
    lower.parent = upper;
    lower.begin += static_cast<int32_t>(tokens);
    lower.tokens = whole.subspan(tokens);
    children_[Key(upper, lower.tokens.front())] = id;
    return upper;
  }

  std::vector<Edge> edges_;
  std::map<uint64_t, int32_t> children_;  // by Key; hashes of tokens that a client chose could all be equal
};

class Planner {
 public:
  Planner(const TreeRequest& request, const std::vector<Below>& below, const std::vector<int32_t>& member_of,
          std::vector<int32_t> members, int32_t owner)
      : request_(request),
        below_(below),
        member_of_(member_of),
        owner_(owner),
        samples_directly_(owner > 0 && below[static_cast<size_t>(owner)].generates) {
    plan_.members = std::move(members);
    states_.resize(plan_.members.size());
  }

  RunPlan Run() {
    for (size_t i = states_.size(); i-- > 0;) FindNeeds(i);
    for (size_t i = 0; i < states_.size(); ++i) Insert(i);
    for (size_t i = 0; i < states_.size(); ++i) FollowToEnd(i);
    if (samples_directly_) {
      trie_.edge(0).ends_a_run = true;
      trie_.edge(0).uses.push_back({.depth = -1, .kind = RunUse::Kind::kSample});
      needed_ = true;
    }
    for (size_t i = 0; i < states_.size(); ++i) AddUses(i);
    if (needed_) MakeRuns();
    plan_.run_of.resize(states_.size(), -1);
    for (size_t i = 0; i < states_.size() && needed_; ++i)
      plan_.run_of[i] = run_of_edge_[static_cast<size_t>(states_[i].furthest)];
    return std::move(plan_);
  }

 private:
  struct State {
    int32_t begin = 0;      // depth of its first token
    int32_t own_rows = -1;  // of its own tokens those whose rows it needs for itself; -1: needs none at all
    bool needed_below = false;
    int32_t edge = 0;          // inserted: where its rows end
    int32_t furthest = 0;      // the last edge on its path
    bool path_in_trie = true;  // furthest is its end

    bool needed() const { return own_rows >= 0 || needed_below; }
  };

  const GivenSpec& spec(size_t i) const {
    return std::get<GivenSpec>(request_.nodes[static_cast<size_t>(plan_.members[i])].content);
  }
  const Below& below(size_t i) const { return below_[static_cast<size_t>(plan_.members[i])]; }
  // Null: it continues the group's branch itself.
  State* parent(size_t i) {
    const int32_t above = request_.nodes[static_cast<size_t>(plan_.members[i])].parent;
    if (above < 0 || above == owner_group_branch()) return nullptr;
    return &states_[static_cast<size_t>(member_of_[static_cast<size_t>(above)])];
  }
  // The owner of the root's group is the root itself, which is a member.
  int32_t owner_group_branch() const { return owner_ == 0 ? -1 : owner_; }
  int32_t rows(size_t i) const {
    return states_[i].needed_below ? static_cast<int32_t>(spec(i).token_ids.size())
                                   : std::max(states_[i].own_rows, 0);
  }

  void FindNeeds(size_t i) {
    const int32_t size = static_cast<int32_t>(spec(i).token_ids.size());
    State& state = states_[i];
    if (spec(i).score) state.own_rows = size - 1;
    const bool terminal = !below(i).given && !below(i).generates && !below(i).selects;
    if (below(i).generates || (terminal && !spec(i).score)) state.own_rows = size;
    if (!state.needed()) return;
    needed_ = true;
    if (State* above = parent(i)) above->needed_below = true;
  }

  void Insert(size_t i) {
    State& state = states_[i];
    const State* above = parent(i);
    const int32_t from = above == nullptr ? 0 : above->edge;
    if (above != nullptr) {
      const int32_t above_size =
          static_cast<int32_t>(spec(static_cast<size_t>(above - states_.data())).token_ids.size());
      state.begin = above->begin + above_size;
    }
    if (!state.needed()) return;
    const auto tokens = std::span(spec(i).token_ids).first(static_cast<size_t>(rows(i)));
    state.edge = trie_.Insert(from, tokens, static_cast<int32_t>(i));
    if (below(i).generates) trie_.edge(state.edge).ends_a_run = true;
  }

  // How far rows that are needed for whatever reason cover the member's path: what a selection below it lets
  // go on continues from there.
  void FollowToEnd(size_t i) {
    State& state = states_[i];
    const State* above = parent(i);
    const std::span<const int32_t> tokens(spec(i).token_ids);
    std::span<const int32_t> rest = tokens;
    if (state.needed()) {
      state.furthest = state.edge;
      rest = tokens.subspan(static_cast<size_t>(rows(i)));
    } else if (above != nullptr) {
      state.furthest = above->furthest;
      state.path_in_trie = above->path_in_trie;
    }
    if (state.path_in_trie && !rest.empty()) {
      state.furthest = trie_.Walk(state.furthest, &rest);
      state.path_in_trie = rest.empty();
    }
    if (below(i).selects) trie_.edge(state.furthest).ends_a_run = true;
  }

  void AddUses(size_t i) {
    const State& state = states_[i];
    if (!state.needed()) return;
    const int32_t member = static_cast<int32_t>(i);
    const int32_t size = static_cast<int32_t>(spec(i).token_ids.size());
    const State* above = parent(i);
    const int32_t first = above == nullptr ? 0 : above->edge;
    if (spec(i).score) {
      trie_.edge(first).uses.push_back(
          {.depth = state.begin - 1, .kind = RunUse::Kind::kScore, .member = member, .token = 0});
    }
    for (int32_t id = state.edge; id != first; id = trie_.edge(id).parent) {
      Trie::Edge& edge = trie_.edge(id);
      edge.spans.push_back({member, edge.begin, edge.end()});
      for (int32_t depth = edge.begin; spec(i).score && depth < edge.end(); ++depth) {
        const int32_t token = depth - state.begin + 1;
        if (token < size) edge.uses.push_back({depth, RunUse::Kind::kScore, member, token});
      }
    }
    const int32_t last = state.begin + size - 1;
    if (below(i).generates) {
      trie_.edge(state.edge).uses.push_back({last, RunUse::Kind::kSample, member, 0});
    } else if (state.own_rows == size) {
      trie_.edge(state.edge).uses.push_back({last, RunUse::Kind::kRead, member, 0});
    }
  }

  // Runs in the order of the nodes that asked for them, each before those that continue it. An edge that only
  // one other continues is one run with it.
  void MakeRuns() {
    std::vector<std::vector<int32_t>> children(static_cast<size_t>(trie_.size()));
    for (int32_t id = 1; id < trie_.size(); ++id)
      children[static_cast<size_t>(trie_.edge(id).parent)].push_back(id);
    for (auto& siblings : children) {
      std::sort(siblings.begin(), siblings.end(),
                [&](int32_t a, int32_t b) { return trie_.edge(a).member > trie_.edge(b).member; });
    }
    run_of_edge_.assign(static_cast<size_t>(trie_.size()), -1);
    std::vector<int32_t> stack(1, 0);
    while (!stack.empty()) {
      int32_t id = stack.back();
      stack.pop_back();
      espalier::Run run;
      if (id > 0) run.parent = run_of_edge_[static_cast<size_t>(trie_.edge(id).parent)];
      run.begin = trie_.edge(id).begin;
      run.member = trie_.edge(id).member;
      AppendEdge(id, &run);
      while (!trie_.edge(id).ends_a_run && children[static_cast<size_t>(id)].size() == 1) {
        id = children[static_cast<size_t>(id)].front();
        if (run.member < 0) run.member = trie_.edge(id).member;
        AppendEdge(id, &run);
      }
      run_of_edge_[static_cast<size_t>(id)] = static_cast<int32_t>(plan_.runs.size());
      plan_.runs.push_back(std::move(run));
      const auto& next = children[static_cast<size_t>(id)];
      stack.insert(stack.end(), next.begin(), next.end());
    }
  }

  void AppendEdge(int32_t id, espalier::Run* run) {
    Trie::Edge& edge = trie_.edge(id);
    std::stable_sort(edge.uses.begin(), edge.uses.end(),
                     [](const RunUse& a, const RunUse& b) { return a.depth < b.depth; });
    run->tokens.insert(run->tokens.end(), edge.tokens.begin(), edge.tokens.end());
    run->uses.insert(run->uses.end(), edge.uses.begin(), edge.uses.end());
    run->spans.insert(run->spans.end(), edge.spans.begin(), edge.spans.end());
  }

  const TreeRequest& request_;
  const std::vector<Below>& below_;
  const std::vector<int32_t>& member_of_;
  const int32_t owner_;
  const bool samples_directly_;
  RunPlan plan_;
  std::vector<State> states_;  // [members]
  Trie trie_;
  bool needed_ = false;
  std::vector<int32_t> run_of_edge_;
};

}  // namespace

RunPlans PlanRuns(const TreeRequest& request) {
  const size_t nodes = request.nodes.size();
  const auto is_given = [&](int32_t node) {
    return std::holds_alternative<GivenSpec>(request.nodes[static_cast<size_t>(node)].content);
  };
  std::vector<Below> below(nodes);
  std::vector<int32_t> owner(nodes, -1);  // of given nodes
  std::vector<std::vector<int32_t>> members(nodes);
  RunPlans plans;
  plans.of_owner.resize(nodes);
  plans.member.assign(nodes, -1);
  for (size_t i = 0; i < nodes; ++i) {
    const TreeNodeSpec& node = request.nodes[i];
    if (node.parent >= 0) {
      Below& above = below[static_cast<size_t>(node.parent)];
      above.given = above.given || std::holds_alternative<GivenSpec>(node.content);
      above.generates = above.generates || std::holds_alternative<GenerateSpec>(node.content);
      above.selects = above.selects || std::holds_alternative<SelectSpec>(node.content);
    }
    if (!is_given(static_cast<int32_t>(i))) continue;
    if (node.parent < 0) {
      owner[i] = 0;
    } else {
      owner[i] = is_given(node.parent) ? owner[static_cast<size_t>(node.parent)] : node.parent;
    }
    std::vector<int32_t>& group = members[static_cast<size_t>(owner[i])];
    plans.member[i] = static_cast<int32_t>(group.size());
    group.push_back(static_cast<int32_t>(i));
  }
  for (size_t i = 0; i < nodes; ++i) {
    if (members[i].empty()) continue;
    Planner planner(request, below, plans.member, std::move(members[i]), static_cast<int32_t>(i));
    plans.of_owner[i] = std::make_unique<const RunPlan>(planner.Run());
  }
  return plans;
}

const RunPlan& SampleOnlyPlan() {
  static const RunPlan plan{.members = {},
                            .run_of = {},
                            .runs = {{.parent = -1,
                                      .begin = 0,
                                      .tokens = {},
                                      .uses = {{.depth = -1, .kind = RunUse::Kind::kSample}},
                                      .spans = {},
                                      .member = -1}}};
  return plan;
}

}  // namespace espalier
