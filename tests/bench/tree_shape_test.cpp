#include "tests/bench/tree_shape.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "tests/bench/recorded_trees.h"
#include "tests/support/catch.h"

namespace espalier::bench {

namespace {

// Tokens that each row sees, itself included.
std::vector<int32_t> PathTokens(const TreeBatch& batch) {
  std::vector<int32_t> tokens;
  for (const int32_t position : batch.row_position) tokens.push_back(position + 1);
  return tokens;
}

std::string Write(const std::string& text) {
  const auto path =
      std::filesystem::temp_directory_path() / ("espalier_trees_" + std::to_string(getpid()) + ".json");
  std::ofstream(path) << text;
  return path.string();
}

const char* kWholeTree = R"({"incompleted": false, "data": {
  "0": {"id": 0, "value": 40, "start": -39, "end": 0, "children": [1, 2]},
  "1": {"id": 1, "value": 3, "start": 1, "end": 3, "children": []},
  "2": {"id": 2, "value": 5, "start": 1, "end": 5, "children": [3, 4]},
  "3": {"id": 3, "value": 2, "start": 6, "end": 7, "children": []},
  "4": {"id": 4, "value": 4, "start": 6, "end": 9, "children": []}}})";

}  // namespace

TEST_CASE("a level string becomes a batch that holds what it says") {
  const auto shape = ParseLevels("2,4,12;20,7,50");
  REQUIRE(shape.ok());
  CHECK(shape->rows() == 12);
  CHECK(shape->tokens() == 2 * 20 + 4 * 7 + 12 * 50);
  const TreeBatch batch = MakeBatch(*shape, 16);
  REQUIRE(ValidateBatch(batch).ok());
  CHECK(PathTokens(batch) == std::vector<int32_t>(12, 20 + 7 + 50));
  // 16 tokens of a root's 20 are whole blocks; the other 4 and the 7 below them are less than a block.
  REQUIRE(batch.nodes.size() == 2 + 12);
  CHECK(batch.nodes[0].cached_tokens == 16);
  CHECK(batch.nodes[1].cached_tokens == 4 + 7 + 49);
}

TEST_CASE("shapes of every kind make valid batches") {
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    const auto pick = [&](int32_t low, int32_t high) {
      return std::uniform_int_distribution<int32_t>(low, high)(random);
    };
    const int32_t block_tokens = 1 << pick(0, 6);
    const std::string text = std::to_string(pick(1, 3)) + "," + std::to_string(pick(3, 9)) + "," +
                             std::to_string(pick(9, 30)) + ";" + std::to_string(pick(1, 70)) + "," +
                             std::to_string(pick(1, 40)) + "," + std::to_string(pick(1, 40));
    INFO(text << " blocks of " << block_tokens);
    const auto levels = ParseLevels(text);
    REQUIRE(levels.ok());
    for (const TreeShape& shape : {*levels, FewShotShape(pick(0, 90), pick(1, 20), pick(1, 40)),
                                   PrefillShape(pick(0, 90), pick(1, 90)),
                                   TokenTreeShape("t", pick(0, 90), BinaryTokenTree(pick(1, 90)))}) {
      const TreeBatch batch = MakeBatch(shape, block_tokens);
      const Status status = ValidateBatch(batch);
      INFO(shape.name << ": " << (status ? "" : status.error().message));
      REQUIRE(status.ok());
      REQUIRE(batch.rows() == shape.rows());
    }
  }
}

TEST_CASE("a damaged level string is refused with the position of its fault") {
  const auto [text, position] = GENERATE(table<const char*, const char*>({{"", "character 1:"},
                                                                          {"1,2", "character 4:"},
                                                                          {"1,,2;3", "character 3:"},
                                                                          {"1,0;3,4", "character 3:"},
                                                                          {"1,2;3,4x", "character 8:"},
                                                                          {"1,2;3", "character 6:"},
                                                                          {"4,2;3,4", "level 2"},
                                                                          {"1,99999999;3,4", "character 3:"},
                                                                          {"1,65536;1,1048576", "2^24"}}));
  const auto shape = ParseLevels(text);
  REQUIRE(!shape.ok());
  CHECK(shape.error().message.find(position) != std::string::npos);
}

TEST_CASE("token trees of 32 rows have the recorded topology") {
  // Rows at each depth: 1, 4, 8, 16, and what is left.
  const std::vector<int32_t> parents = BinaryTokenTree(32);
  std::vector<int32_t> depth;
  std::vector<int32_t> at_depth(5, 0);
  for (const int32_t parent : parents) {
    depth.push_back(parent < 0 ? 0 : depth[static_cast<size_t>(parent)] + 1);
    ++at_depth[static_cast<size_t>(depth.back())];
  }
  CHECK(at_depth == std::vector<int32_t>{1, 4, 8, 16, 3});
  const char* shared = std::getenv("ESPALIER_SHARED_DIR");
  if (shared == nullptr) {
    WARN("ESPALIER_SHARED_DIR is not set: the recorded topology was not compared");
    return;
  }
  const auto recorded = ReadTokenTree(std::string(shared) + "/workloads/speculative/APPS_tree_size32.json");
  REQUIRE(recorded.ok());
  CHECK(*recorded == parents);
  const auto sparse = ReadTokenTree(std::string(shared) + "/workloads/speculative/APPS_tree_size64.json");
  REQUIRE(sparse.ok());
  CHECK(sparse->size() == 64);
}

TEST_CASE("a recorded run is replayed step by step, pruned branches gone") {
  const std::string path = Write("[" + std::string(kWholeTree) + "]");
  const auto trees = ReadRecordedTrees(path);
  REQUIRE(trees.ok());
  REQUIRE(trees->trees.size() == 1);
  const RecordedTree& tree = trees->trees[0];
  CHECK(tree.steps() == 9);
  CHECK(PathTokens(MakeBatch(tree.At(1), 16)) == std::vector<int32_t>{41, 41});
  CHECK(PathTokens(MakeBatch(tree.At(5), 16)) == std::vector<int32_t>{45});
  CHECK(PathTokens(MakeBatch(tree.At(7), 16)) == std::vector<int32_t>{47, 47});
  CHECK(PathTokens(MakeBatch(tree.At(9), 16)) == std::vector<int32_t>{49});
  CHECK(tree.At(10).rows() == 0);
  for (int32_t step = 1; step <= 9; ++step) CHECK(ValidateBatch(MakeBatch(tree.At(step), 16)).ok());
  std::filesystem::remove(path);
}

TEST_CASE("damaged recorded trees are left out and reported, the rest is used") {
  const std::string whole = kWholeTree;
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string tree = whole;
    tree.replace(tree.find(from), from.size(), to);
    return tree;
  };
  const std::string path = Write(
      "[" + whole + "," + changed("false", "true") + "," + changed("[3, 4]", "[3, 9]") + "," +
      changed("\"value\": 5", "\"value\": 6") + "," + changed("\"start\": 6", "\"start\": 8") + "," +
      changed("\"children\": []", "\"children\": [2]") + "," + changed("\"value\"", "\"walue\"") + ", 3]");
  const auto trees = ReadRecordedTrees(path);
  REQUIRE(trees.ok());
  CHECK(trees->trees.size() == 1);
  CHECK(trees->skipped == 1);
  REQUIRE(trees->damaged.size() == 6);
  CHECK(trees->damaged[0] == "tree 2, node 9 is not there");
  CHECK(trees->damaged[1].find("tree 3, node 2: ") == 0);
  std::filesystem::remove(path);
}

TEST_CASE("a file that is no list of trees is refused by name") {
  CHECK(ReadRecordedTrees("/no/such/file").error().message.find("/no/such/file") != std::string::npos);
  for (const char* text : {"", "{}", "[]", "[3]", "[{]"}) {
    const std::string path = Write(text);
    CHECK(ReadRecordedTrees(path).error().message.find(path) != std::string::npos);
    CHECK(ReadTokenTree(path).error().message.find(path) != std::string::npos);
    std::filesystem::remove(path);
  }
}

TEST_CASE("a token tree with a hole is refused, naming the path") {
  const auto [text, fault] = GENERATE(table<const char*, const char*>({{R"([[0], [1, 0]])", "[1,0]"},
                                                                       {R"([[0], [0]])", "[0]"},
                                                                       {R"([[0], []])", "empty path"},
                                                                       {R"([["a"]])", "number"}}));
  const std::string path = Write(std::string(R"({"Tree_Structure": )") + text + "}");
  CHECK(ReadTokenTree(path).error().message.find(fault) != std::string::npos);
  std::filesystem::remove(path);
}

}  // namespace espalier::bench
