#include "tests/bench/replay_request.h"

#include <algorithm>
#include <random>
#include <string>
#include <utility>

namespace espalier::bench {

namespace {

class WindowMaker {
 public:
  WindowMaker(const RecordedTree& tree, int32_t first_step, int32_t steps, int32_t vocab, uint64_t seed)
      : tree_(tree), begin_(first_step), end_(first_step + steps), vocab_(vocab), random_(seed) {
    window_.request.seed = seed;
  }

  ReplayWindow Run() {
    const std::vector<uint8_t> needed = Needed();
    std::vector<int32_t> place(tree_.nodes.size(), -1);  // template that a node's children hang from
    std::vector<int32_t> path(tree_.nodes.size(), 0);    // tokens up to its end in the window
    for (size_t i = 0; i < tree_.nodes.size(); ++i) {
      if (needed[i] == 0) continue;
      const RecordedNode& node = tree_.nodes[i];
      const bool root = node.parent < 0;
      const int32_t before = root ? node.tokens : std::clamp(begin_ - node.start, 0, node.tokens);
      const int32_t within = root ? 0 : GrownIn(node);
      int32_t parent = root ? -1 : place[static_cast<size_t>(node.parent)];
      if (before > 0) parent = Give(i, parent, before);
      if (within > 0) parent = Generate(i, parent, within);
      place[i] = parent;
      path[i] = before + within + (root ? 0 : path[static_cast<size_t>(node.parent)]);
      window_.longest_path_tokens = std::max(window_.longest_path_tokens, path[i]);
    }
    for (int32_t step = begin_; step < end_; ++step)
      window_.branches = std::max(window_.branches, tree_.At(step).rows());
    window_.given = GivenPart();
    return std::move(window_);
  }

 private:
  // Nothing is given below what is generated.
  TreeRequest GivenPart() const {
    TreeRequest part;
    part.seed = window_.request.seed;
    std::vector<int32_t> place;
    for (const TreeNodeSpec& node : window_.request.nodes) {
      place.push_back(static_cast<int32_t>(part.nodes.size()));
      if (!std::holds_alternative<GivenSpec>(node.content)) continue;
      part.nodes.push_back(node);
      if (node.parent >= 0) part.nodes.back().parent = place[static_cast<size_t>(node.parent)];
    }
    return part;
  }

  // Steps of the window in which the node grows.
  int32_t GrownIn(const RecordedNode& node) const {
    return std::max(0, std::min(node.end + 1, end_) - std::max(node.start, begin_));
  }

  // Nodes that grow in the window, and all above them.
  std::vector<uint8_t> Needed() const {
    std::vector<uint8_t> needed(tree_.nodes.size(), 0);
    for (size_t i = tree_.nodes.size(); i-- > 1;) {
      if (GrownIn(tree_.nodes[i]) > 0) needed[i] = 1;
      if (needed[i] != 0) needed[static_cast<size_t>(tree_.nodes[i].parent)] = 1;
    }
    return needed;
  }

  int32_t Give(size_t node, int32_t parent, int32_t tokens) {
    GivenSpec given;
    for (int32_t i = 0; i < tokens; ++i)
      given.token_ids.push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab_)));
    window_.given_tokens += tokens;
    return Add("given " + std::to_string(node), parent, std::move(given));
  }

  int32_t Generate(size_t node, int32_t parent, int32_t tokens) {
    GenerateSpec generate;
    generate.max_new_tokens = tokens;
    generate.ignore_eos = true;
    window_.generated_tokens += tokens;
    return Add("generated " + std::to_string(node), parent, std::move(generate));
  }

  template <typename Content>
  int32_t Add(std::string id, int32_t parent, Content content) {
    window_.request.nodes.push_back({std::move(id), parent, std::move(content)});
    return static_cast<int32_t>(window_.request.nodes.size()) - 1;
  }

  const RecordedTree& tree_;
  int32_t begin_;
  int32_t end_;
  int32_t vocab_;
  std::mt19937_64 random_;
  ReplayWindow window_;
};

}  // namespace

RecordedTree AsRecorded(const TreeShape& shape) {
  RecordedTree tree;
  for (const ShapeNode& node : shape.nodes) {
    RecordedNode recorded;
    recorded.parent = node.parent;
    recorded.tokens = node.tokens + static_cast<int32_t>(node.row_parents.size());
    if (node.parent >= 0) {
      recorded.start = tree.nodes[static_cast<size_t>(node.parent)].end + 1;
      recorded.end = recorded.start + recorded.tokens - 1;
    }
    tree.nodes.push_back(recorded);
  }
  return tree;
}

ReplayWindow MakeWindow(const RecordedTree& tree, int32_t first_step, int32_t steps, int32_t vocab,
                        uint64_t seed) {
  return WindowMaker(tree, first_step, steps, vocab, seed).Run();
}

}  // namespace espalier::bench
