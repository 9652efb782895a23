#include "tests/kernels/forest.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/result.h"

namespace espalier::test {

namespace {

size_t Index(int32_t i) { return static_cast<size_t>(i); }

int32_t BlocksFor(int32_t tokens, int32_t block_tokens) { return (tokens + block_tokens - 1) / block_tokens; }

class MixedMaker {
 public:
  MixedMaker(Random& random, const ForestLimits& limits, int32_t block_tokens)
      : random_(random), limits_(limits), block_tokens_(block_tokens), builder_(block_tokens) {}

  Forest Make() {
    const int32_t trees = Pick(random_, 1, limits_.max_trees);
    for (int32_t tree = 0; tree < trees; ++tree) Node(Pick(random_, 0, limits_.max_depth), true);
    return builder_.Finish(random_);
  }

 private:
  void Node(int32_t depth, bool aligned) {
    if (depth == 0) {
      Leaf(aligned);
      return;
    }
    builder_.Open(aligned ? Pick(random_, 0, limits_.max_node_blocks) * block_tokens_ : 0);
    if (Pick(random_, 0, 4) == 0) builder_.Chain(Pick(random_, 1, 2) * block_tokens_);
    if (Pick(random_, 0, 9) == 0) builder_.Tree(RandomTree(random_, Pick(random_, 1, 6)));
    const bool children_aligned = builder_.path_end() % block_tokens_ == 0;
    const int32_t children = Pick(random_, 1, limits_.max_children);
    for (int32_t child = 0; child < children; ++child) {
      Node(Pick(random_, 0, depth - 1), children_aligned);
    }
    builder_.Close();
  }

  void Leaf(bool aligned) {
    const int32_t max = limits_.max_node_blocks * block_tokens_;
    builder_.Open(aligned ? Pick(random_, 0, max) : 0);
    switch (Pick(random_, 0, 3)) {
      case 0:
        builder_.Chain(Pick(random_, 1, limits_.max_chunk));
        break;
      case 1:
        builder_.Tree(RandomTree(random_, Pick(random_, 1, limits_.max_chunk)));
        break;
      case 2:  // A decode row with a draft to verify below it.
        builder_.Chain(1);
        builder_.Open(0);
        builder_.Tree(RandomTree(random_, Pick(random_, 1, limits_.max_chunk)));
        builder_.Close();
        break;
      default:
        builder_.Chain(1);
    }
    builder_.Close();
  }

  Random& random_;
  ForestLimits limits_;
  int32_t block_tokens_;
  ForestBuilder builder_;
};

}  // namespace

int32_t Pick(Random& random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random() % static_cast<uint32_t>(high - low + 1));
}

std::vector<int32_t> Forest::RowsSeenBy(int32_t row) const {
  std::vector<int32_t> seen;
  int32_t node = batch.row_node[Index(row)];
  while (true) {
    for (; row >= 0; row = row_parent[Index(row)]) seen.push_back(row);
    node = batch.nodes[Index(node)].parent;
    if (node < 0) return seen;
    row = node_tip[Index(node)];
  }
}

std::vector<int32_t> Forest::NodesSeenBy(int32_t row) const {
  std::vector<int32_t> seen;
  for (int32_t node = batch.row_node[Index(row)]; node >= 0; node = batch.nodes[Index(node)].parent) {
    seen.push_back(node);
  }
  return seen;
}

void ForestBuilder::Open(int32_t cached_tokens) {
  BatchNode node;
  node.parent = open_.empty() ? -1 : open_.back();
  node.begin_position = open_.empty() ? 0 : path_end();
  node.cached_tokens = cached_tokens;
  node.first_row = rows();
  open_.push_back(static_cast<int32_t>(forest_.batch.nodes.size()));
  forest_.batch.nodes.push_back(node);
  forest_.node_tip.push_back(-1);
}

int32_t ForestBuilder::path_end() const {
  const BatchNode& node = forest_.batch.nodes[Index(open_.back())];
  const int32_t tip = forest_.node_tip[Index(open_.back())];
  if (tip >= 0) return forest_.batch.row_position[Index(tip)] + 1;
  return node.begin_position + node.cached_tokens;
}

void ForestBuilder::Chain(int32_t rows) {
  std::vector<int32_t> parents(Index(rows));
  std::iota(parents.begin(), parents.end(), -1);
  Tree(parents);
}

void ForestBuilder::Tree(const std::vector<int32_t>& parents) {
  const int32_t index = open_.back();
  BatchNode& node = forest_.batch.nodes[Index(index)];
  const int32_t tip = forest_.node_tip[Index(index)];
  const int32_t first = rows();
  const int32_t top = path_end();
  for (const int32_t parent : parents) {
    const int32_t above = parent < 0 ? tip : first + parent;
    forest_.row_parent.push_back(above);
    const int32_t position = parent < 0 ? top : forest_.batch.row_position[Index(first + parent)] + 1;
    forest_.batch.row_node.push_back(index);
    forest_.batch.row_position.push_back(position);
    forest_.batch.row_subtree_end.push_back(0);
  }
  node.rows += static_cast<int32_t>(parents.size());
  if (!parents.empty()) forest_.node_tip[Index(index)] = rows() - 1;
}

void ForestBuilder::Close() {
  const int32_t index = open_.back();
  open_.pop_back();
  TreeBatch& batch = forest_.batch;
  BatchNode& node = batch.nodes[Index(index)];
  node.subtree_end_row = rows();
  const int32_t own_end = node.first_row + node.rows;
  // The last row below each row, own rows first; what reaches the node's end also holds its children.
  for (int32_t row = node.first_row; row < own_end; ++row) batch.row_subtree_end[Index(row)] = row + 1;
  for (int32_t row = own_end - 1; row >= node.first_row; --row) {
    const int32_t above = forest_.row_parent[Index(row)];
    if (above < 0) continue;
    int32_t& end = batch.row_subtree_end[Index(above)];
    end = std::max(end, batch.row_subtree_end[Index(row)]);
  }
  for (int32_t row = node.first_row; row < own_end; ++row) {
    int32_t& end = batch.row_subtree_end[Index(row)];
    if (end == own_end) end = node.subtree_end_row;
  }
}

Forest ForestBuilder::Finish(Random& random, int32_t pool_blocks) {
  ESPALIER_CHECK(open_.empty());
  TreeBatch& batch = forest_.batch;
  int32_t used = 0;
  for (BatchNode& node : batch.nodes) {
    node.first_block = used;
    used += BlocksFor(node.cached_tokens + node.rows, batch.block_tokens);
  }
  batch.blocks.resize(Index(used));
  ScatterBlocks(random, pool_blocks > 0 ? pool_blocks : used * 2, &batch);
  return std::move(forest_);
}

void ScatterBlocks(Random& random, int32_t pool_blocks, TreeBatch* batch) {
  std::vector<int32_t> ids(Index(pool_blocks));
  ESPALIER_CHECK(ids.size() >= batch->blocks.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random);
  std::copy_n(ids.begin(), batch->blocks.size(), batch->blocks.begin());
}

std::vector<int32_t> RandomTree(Random& random, int32_t rows) {
  std::vector<int32_t> parents;
  std::vector<int32_t> path;  // rows from the root to the last one made
  const int32_t bushiness = Pick(random, 0, 3);
  for (int32_t row = 0; row < rows; ++row) {
    while (!path.empty() && Pick(random, 0, 3) < bushiness) path.pop_back();
    parents.push_back(path.empty() ? -1 : path.back());
    path.push_back(row);
  }
  return parents;
}

Forest MixedForest(Random& random, const ForestLimits& limits, int32_t block_tokens) {
  return MixedMaker(random, limits, block_tokens).Make();
}

Forest FewShotForest(Random& random, int32_t prompt_tokens, int32_t branches, int32_t own_tokens,
                     int32_t block_tokens) {
  ForestBuilder builder(block_tokens);
  const int32_t aligned = prompt_tokens / block_tokens * block_tokens;
  builder.Open(aligned);
  for (int32_t branch = 0; branch < branches; ++branch) {
    builder.Open(prompt_tokens - aligned + own_tokens);
    builder.Chain(1);
    builder.Close();
  }
  builder.Close();
  return builder.Finish(random);
}

Forest FlatForest(Random& random, int32_t rows, int32_t max_tokens) {
  ForestBuilder builder;
  for (int32_t row = 0; row < rows; ++row) {
    builder.Open(Pick(random, 0, max_tokens));
    builder.Chain(1);
    builder.Close();
  }
  return builder.Finish(random);
}

Forest DeepForest(Random& random, int32_t depth, int32_t node_tokens) {
  ForestBuilder builder;
  for (int32_t level = 0; level < depth; ++level) {
    builder.Open(node_tokens);
    builder.Open(Pick(random, 0, 20));
    builder.Chain(1);
    builder.Close();
  }
  for (int32_t level = 0; level < depth; ++level) builder.Close();
  return builder.Finish(random);
}

Forest PrefillForest(Random& random, int32_t cached_tokens, int32_t rows) {
  ForestBuilder builder;
  builder.Open(cached_tokens);
  builder.Chain(rows);
  builder.Close();
  return builder.Finish(random);
}

Forest TokenTreeForest(Random& random, int32_t cached_tokens, int32_t rows) {
  ForestBuilder builder;
  builder.Open(cached_tokens);
  builder.Chain(1);
  builder.Open(0);
  builder.Tree(RandomTree(random, rows));
  builder.Close();
  builder.Close();
  return builder.Finish(random);
}

}  // namespace espalier::test
