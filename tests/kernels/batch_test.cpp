#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "kernels/plan/attention_plan.h"
#include "kernels/plan/tree_batch.h"
#include "tests/kernels/forest.h"
#include "tests/support/catch.h"

namespace espalier::test {

namespace {

std::string MessageOf(const Status& status) { return status.ok() ? "accepted" : status.error().ToString(); }

bool Contains(const std::vector<int32_t>& list, int32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// Breaks one statement of the contract; false where the batch offers no place for it.
struct Corruption {
  const char* name;
  std::function<bool(TreeBatch&, Random&)> apply;
};

BatchNode& AnyNode(TreeBatch& batch, Random& random) {
  return batch.nodes[static_cast<size_t>(Pick(random, 0, static_cast<int32_t>(batch.nodes.size()) - 1))];
}
size_t AnyRow(const TreeBatch& batch, Random& random) {
  return static_cast<size_t>(Pick(random, 0, batch.rows() - 1));
}

const std::vector<Corruption>& Corruptions() {
  static const std::vector<Corruption> list = {
      {"parent after child",
       [](TreeBatch& b, Random& r) {
         return AnyNode(b, r).parent = static_cast<int32_t>(b.nodes.size()), true;
       }},
      {"begin position",
       [](TreeBatch& b, Random& r) { return AnyNode(b, r).begin_position += b.block_tokens, true; }},
      {"first row", [](TreeBatch& b, Random& r) { return ++AnyNode(b, r).first_row, true; }},
      {"row count", [](TreeBatch& b, Random& r) { return ++AnyNode(b, r).rows, true; }},
      {"subtree end", [](TreeBatch& b, Random& r) { return ++AnyNode(b, r).subtree_end_row, true; }},
      {"subtree end short", [](TreeBatch& b, Random& r) { return --AnyNode(b, r).subtree_end_row, true; }},
      {"first block", [](TreeBatch& b, Random& r) { return ++AnyNode(b, r).first_block, true; }},
      {"missing block", [](TreeBatch& b, Random&) { return b.blocks.pop_back(), true; }},
      {"spare block", [](TreeBatch& b, Random&) { return b.blocks.push_back(100000), true; }},
      {"negative block", [](TreeBatch& b, Random&) { return b.blocks.back() = -1, true; }},
      {"row of another node", [](TreeBatch& b, Random& r) { return ++b.row_node[AnyRow(b, r)], true; }},
      {"row position", [](TreeBatch& b, Random& r) { return ++b.row_position[AnyRow(b, r)], true; }},
      {"row seen by none",
       [](TreeBatch& b, Random& r) {
         const size_t row = AnyRow(b, r);
         return b.row_subtree_end[row] = static_cast<int32_t>(row), true;
       }},
      {"row seen beyond its tree",
       [](TreeBatch& b, Random& r) { return b.row_subtree_end[AnyRow(b, r)] = b.rows() + 1, true; }},
      {"row arrays differ", [](TreeBatch& b, Random&) { return b.row_position.pop_back(), true; }},
      {"block size", [](TreeBatch& b, Random&) { return b.block_tokens = 24, true; }},
      {"two writers",
       [](TreeBatch& b, Random&) {
         // The first and the last row, if they write the same slot number of different blocks.
         const int64_t first = b.KvSlotOfRow(0);
         const int64_t last = b.KvSlotOfRow(b.rows() - 1);
         if (first == last || first % b.block_tokens != last % b.block_tokens) return false;
         std::replace(b.blocks.begin(), b.blocks.end(), static_cast<int32_t>(last / b.block_tokens),
                      static_cast<int32_t>(first / b.block_tokens));
         return true;
       }},
      {"cached token overwritten",
       [](TreeBatch& b, Random&) {
         const BatchNode& root = b.nodes.front();
         const int64_t last = b.KvSlotOfRow(b.rows() - 1) / b.block_tokens;
         if (root.cached_tokens < b.block_tokens || b.row_node.back() == 0) return false;
         b.blocks.front() = static_cast<int32_t>(last);
         return true;
       }},
  };
  return list;
}

}  // namespace

TEST_CASE("Generated forests are valid batches, and intervals say exactly what the tree says") {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    Random random(seed);
    const int32_t block_tokens = 1 << Pick(random, 0, 5);
    const Forest forest = MixedForest(random, {}, block_tokens);
    INFO("seed " << seed);
    const Status valid = ValidateBatch(forest.batch);
    INFO(MessageOf(valid));
    REQUIRE(valid.ok());
    if (forest.batch.rows() > 150) continue;
    bool same = true;
    for (int32_t row = 0; row < forest.batch.rows(); ++row) {
      const std::vector<int32_t> rows = forest.RowsSeenBy(row);
      const std::vector<int32_t> nodes = forest.NodesSeenBy(row);
      for (int32_t own = 0; own < forest.batch.rows(); ++own) {
        const bool inside = own <= row && row < forest.batch.row_subtree_end[static_cast<size_t>(own)];
        same = same && inside == Contains(rows, own);
      }
      for (size_t n = 0; n < forest.batch.nodes.size(); ++n) {
        const BatchNode& node = forest.batch.nodes[n];
        const bool inside = node.first_row <= row && row < node.subtree_end_row;
        same = same && inside == Contains(nodes, static_cast<int32_t>(n));
      }
    }
    REQUIRE(same);
  }
}

TEST_CASE("Special forests are valid batches") {
  Random random(1);
  for (const Forest& forest :
       {FewShotForest(random, 4000, 50, 20), FewShotForest(random, 7, 1024, 0), FlatForest(random, 64, 500),
        DeepForest(random, 60, 16), PrefillForest(random, 100, 512), PrefillForest(random, 0, 1),
        TokenTreeForest(random, 250, 256)}) {
    const Status valid = ValidateBatch(forest.batch);
    INFO(MessageOf(valid));
    REQUIRE(valid.ok());
  }
  REQUIRE(ValidateBatch(TreeBatch{}).ok());
}

TEST_CASE("Corrupted batches are refused") {
  for (const Corruption& corruption : Corruptions()) {
    int32_t applied = 0;
    for (uint32_t seed = 0; seed < 150; ++seed) {
      Random random(seed);
      Forest forest = MixedForest(random, {});
      if (!corruption.apply(forest.batch, random)) continue;
      ++applied;
      INFO(corruption.name << ", seed " << seed);
      REQUIRE(!ValidateBatch(forest.batch).ok());
    }
    INFO(corruption.name);
    REQUIRE(applied > 0);
  }
}

}  // namespace espalier::test
