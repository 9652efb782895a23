#include "tests/bench/tree_shape.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace espalier::bench {

namespace {

constexpr int32_t kMaxLevelNodes = 1 << 16;
constexpr int32_t kMaxNodeTokens = 1 << 20;
constexpr int64_t kMaxTokens = int64_t{1} << 24;

// Reads "a,b,...;c,d,...".
class LevelParser {
 public:
  explicit LevelParser(std::string_view text) : text_(text) {}

  Result<TreeShape> Parse() {
    auto counts = Numbers(kMaxLevelNodes);
    if (!counts) return counts.error();
    if (at_ == text_.size() || text_[at_] != ';') return Fail("expected ';' behind the nodes of the levels");
    ++at_;
    auto tokens = Numbers(kMaxNodeTokens);
    if (!tokens) return tokens.error();
    if (at_ != text_.size()) return Fail("unexpected '" + std::string(1, text_[at_]) + "'");
    if (counts->size() != tokens->size())
      return Fail(std::to_string(counts->size()) + " levels have nodes, but " +
                  std::to_string(tokens->size()) + " have tokens");
    return Build(*counts, *tokens);
  }

 private:
  Error Fail(const std::string& why) const {
    return InvalidArgument("tree",
                           "'" + std::string(text_) + "', character " + std::to_string(at_ + 1) + ": " + why);
  }

  Result<std::vector<int32_t>> Numbers(int32_t max) {
    std::vector<int32_t> numbers;
    while (true) {
      int32_t number = 0;
      const char* begin = text_.data() + at_;
      const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), number);
      if (error != std::errc() || number < 1 || number > max)
        return Fail("expected an integer in [1, " + std::to_string(max) + "]");
      at_ += static_cast<size_t>(end - begin);
      numbers.push_back(number);
      if (at_ == text_.size() || text_[at_] != ',') return numbers;
      ++at_;
    }
  }

  Result<TreeShape> Build(const std::vector<int32_t>& counts, const std::vector<int32_t>& tokens) const {
    TreeShape shape;
    shape.name = text_;
    int32_t above = -1;  // first node of the level above
    for (size_t level = 0; level < counts.size(); ++level) {
      if (level > 0 && counts[level] < counts[level - 1])
        return Fail("level " + std::to_string(level + 1) + " has fewer nodes than the one above it");
      const auto first = static_cast<int32_t>(shape.nodes.size());
      for (int32_t i = 0; i < counts[level]; ++i) {
        ShapeNode node;
        if (level > 0)
          node.parent = above + static_cast<int32_t>(int64_t{i} * counts[level - 1] / counts[level]);
        node.tokens = tokens[level];
        if (level + 1 == counts.size()) {
          --node.tokens;
          node.row_parents = {-1};
        }
        shape.nodes.push_back(std::move(node));
      }
      above = first;
    }
    if (shape.tokens() > kMaxTokens) return Fail("the tree has more than 2^24 tokens");
    return shape;
  }

  std::string_view text_;
  size_t at_ = 0;
};

// Walks the shape depth-first and numbers rows as it comes to them.
class BatchMaker {
 public:
  BatchMaker(const TreeShape& shape, int32_t block_tokens) : shape_(shape), children_(shape.nodes.size()) {
    batch_.block_tokens = block_tokens;
    for (size_t i = 0; i < shape.nodes.size(); ++i) {
      const int32_t parent = shape.nodes[i].parent;
      (parent < 0 ? roots_ : children_[static_cast<size_t>(parent)]).push_back(static_cast<int32_t>(i));
    }
  }

  TreeBatch Run() {
    for (const int32_t root : roots_) Add(root, -1, 0, 0);
    return std::move(batch_);
  }

 private:
  // `copied`: tokens between `begin_position` and the node's first that lie in its own blocks.
  void Add(int32_t index, int32_t parent, int32_t begin_position, int32_t copied) {
    const ShapeNode& node = shape_.nodes[static_cast<size_t>(index)];
    const std::vector<int32_t>& children = children_[static_cast<size_t>(index)];
    const int32_t tokens = copied + node.tokens;
    if (children.empty()) {
      AddLeaf(node, parent, begin_position, tokens);
      return;
    }
    const int32_t shared = tokens / batch_.block_tokens * batch_.block_tokens;
    int32_t here = parent;
    if (shared > 0) here = Open(parent, begin_position, shared, 0);
    for (const int32_t child : children) Add(child, here, begin_position + shared, tokens - shared);
    if (shared > 0) batch_.nodes[static_cast<size_t>(here)].subtree_end_row = batch_.rows();
  }

  void AddLeaf(const ShapeNode& node, int32_t parent, int32_t begin_position, int32_t tokens) {
    const auto rows = static_cast<int32_t>(node.row_parents.size());
    const int32_t index = Open(parent, begin_position, tokens, rows);
    const int32_t first = batch_.rows();
    std::vector<int32_t> end(node.row_parents.size());
    for (int32_t row = rows - 1; row >= 0; --row) {
      const auto r = static_cast<size_t>(row);
      end[r] = std::max(end[r], row + 1);
      if (node.row_parents[r] >= 0) {
        int32_t& above = end[static_cast<size_t>(node.row_parents[r])];
        above = std::max(above, end[r]);
      }
    }
    std::vector<int32_t> position(node.row_parents.size());
    for (size_t r = 0; r < position.size(); ++r) {
      const int32_t above = node.row_parents[r];
      position[r] = above < 0 ? begin_position + tokens : position[static_cast<size_t>(above)] + 1;
      batch_.row_node.push_back(index);
      batch_.row_position.push_back(position[r]);
      batch_.row_subtree_end.push_back(first + end[r]);
    }
    batch_.nodes[static_cast<size_t>(index)].subtree_end_row = batch_.rows();
  }

  int32_t Open(int32_t parent, int32_t begin_position, int32_t cached_tokens, int32_t rows) {
    BatchNode node;
    node.parent = parent;
    node.begin_position = begin_position;
    node.cached_tokens = cached_tokens;
    node.first_block = static_cast<int32_t>(batch_.blocks.size());
    node.first_row = batch_.rows();
    node.rows = rows;
    const int32_t blocks = (cached_tokens + rows + batch_.block_tokens - 1) / batch_.block_tokens;
    for (int32_t i = 0; i < blocks; ++i) batch_.blocks.push_back(node.first_block + i);
    batch_.nodes.push_back(node);
    return static_cast<int32_t>(batch_.nodes.size()) - 1;
  }

  const TreeShape& shape_;
  std::vector<int32_t> roots_;
  std::vector<std::vector<int32_t>> children_;
  TreeBatch batch_;
};

}  // namespace

int32_t TreeShape::rows() const {
  size_t rows = 0;
  for (const ShapeNode& node : nodes) rows += node.row_parents.size();
  return static_cast<int32_t>(rows);
}

int64_t TreeShape::tokens() const {
  int64_t tokens = rows();
  for (const ShapeNode& node : nodes) tokens += node.tokens;
  return tokens;
}

Result<TreeShape> ParseLevels(std::string_view text) { return LevelParser(text).Parse(); }

TreeShape FewShotShape(int32_t prompt_tokens, int32_t branches, int32_t branch_tokens) {
  TreeShape shape;
  shape.name = "few-shot " + std::to_string(branches);
  shape.nodes.push_back({-1, prompt_tokens, {}});
  for (int32_t i = 0; i < branches; ++i) shape.nodes.push_back({0, branch_tokens - 1, {-1}});
  return shape;
}

TreeShape PrefillShape(int32_t cached_tokens, int32_t rows) {
  TreeShape shape;
  shape.name = "prefill " + std::to_string(rows) + " behind " + std::to_string(cached_tokens);
  ShapeNode node{-1, cached_tokens, {}};
  for (int32_t row = 0; row < rows; ++row) node.row_parents.push_back(row - 1);
  shape.nodes.push_back(std::move(node));
  return shape;
}

TreeShape TokenTreeShape(std::string name, int32_t path_tokens, std::vector<int32_t> parents) {
  TreeShape shape;
  shape.name = std::move(name);
  shape.nodes.push_back({-1, path_tokens, std::move(parents)});
  return shape;
}

std::vector<int32_t> BinaryTokenTree(int32_t rows) {
  // Level by level first; then depth-first, as a batch wants its rows.
  std::vector<std::vector<int32_t>> children(1);
  for (size_t next = 0; children.size() < static_cast<size_t>(rows); ++next) {
    const int32_t wanted = next == 0 ? 4 : 2;
    for (int32_t i = 0; i < wanted && children.size() < static_cast<size_t>(rows); ++i) {
      children[next].push_back(static_cast<int32_t>(children.size()));
      children.emplace_back();
    }
  }
  std::vector<int32_t> parents;
  std::vector<std::pair<int32_t, int32_t>> open = {{0, -1}};  // node, row of its parent
  while (!open.empty()) {
    const auto [node, parent] = open.back();
    open.pop_back();
    const auto row = static_cast<int32_t>(parents.size());
    parents.push_back(parent);
    const auto& below = children[static_cast<size_t>(node)];
    for (auto child = below.rbegin(); child != below.rend(); ++child) open.emplace_back(*child, row);
  }
  return parents;
}

TreeBatch MakeBatch(const TreeShape& shape, int32_t block_tokens) {
  return BatchMaker(shape, block_tokens).Run();
}

}  // namespace espalier::bench
