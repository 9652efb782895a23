#include "tests/bench/recorded_trees.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

namespace espalier::bench {

namespace {

using nlohmann::json;

constexpr int32_t kMaxTokens = 1 << 20;

Result<json> ReadJson(const char* flag, const std::string& path) {
  std::ifstream file(path);
  if (!file) return InvalidArgument(flag, "'" + path + "' cannot be read");
  json value = json::parse(file, nullptr, false);
  if (value.is_discarded()) return InvalidArgument(flag, "'" + path + "' is not JSON");
  return value;
}

int32_t Count(const json& node, const char* key) {
  const auto value = node.at(key).get<int64_t>();
  if (value < -kMaxTokens || value > kMaxTokens)
    throw std::runtime_error(std::string(key) + " is out of range");
  return static_cast<int32_t>(value);
}

// Orders the nodes of a recorded tree parents first, and checks what the record says of them. Throws.
class TreeReader {
 public:
  explicit TreeReader(const json& data) : data_(data) {}

  RecordedTree Read() {
    Add("0", -1);
    return std::move(tree_);
  }

 private:
  void Add(const std::string& id, int32_t parent) {
    const auto found = data_.find(id);
    if (found == data_.end()) throw std::runtime_error("node " + id + " is not there");
    const json& record = *found;
    RecordedNode node;
    node.parent = parent;
    node.tokens = Count(record, "value");
    node.start = Count(record, "start");
    node.end = Count(record, "end");
    Check(id, node);
    const auto index = static_cast<int32_t>(tree_.nodes.size());
    if (index > static_cast<int32_t>(data_.size()))
      throw std::runtime_error("node " + id + " is its own ancestor");
    tree_.nodes.push_back(node);
    for (const json& child : record.at("children")) Add(std::to_string(child.get<int64_t>()), index);
  }

  void Check(const std::string& id, const RecordedNode& node) const {
    const auto fail = [&](const std::string& why) { throw std::runtime_error("node " + id + ": " + why); };
    if (node.tokens < 1) fail("generated nothing");
    if (node.parent < 0) {
      if (node.end > 0) fail("is the prompt, but ends after step 0");
      return;
    }
    if (node.end - node.start + 1 != node.tokens) fail("its steps are not as many as its tokens");
    const int32_t before = std::max(tree_.nodes[static_cast<size_t>(node.parent)].end, 0);
    if (node.start != before + 1) fail("does not start when its parent ends");
  }

  const json& data_;
  RecordedTree tree_;
};

// Depth-first, candidates in ascending order.
void AppendCandidates(const std::map<std::vector<int32_t>, std::vector<std::vector<int32_t>>>& below,
                      const std::vector<int32_t>& path, int32_t parent, std::vector<int32_t>* parents) {
  const auto row = static_cast<int32_t>(parents->size());
  parents->push_back(parent);
  const auto children = below.find(path);
  if (children == below.end()) return;
  for (const auto& child : children->second) AppendCandidates(below, child, row, parents);
}

}  // namespace

int32_t RecordedTree::steps() const {
  int32_t last = 0;
  for (const RecordedNode& node : nodes) last = std::max(last, node.end);
  return last;
}

TreeShape RecordedTree::At(int32_t step) const {
  std::vector<uint8_t> alive(nodes.size(), 0);  // the node or one below it grows
  for (size_t i = nodes.size(); i-- > 1;) {
    if (nodes[i].start <= step && step <= nodes[i].end) alive[i] = 1;
    if (alive[i] != 0) alive[static_cast<size_t>(nodes[i].parent)] = 1;
  }
  TreeShape shape;
  std::vector<int32_t> place(nodes.size(), -1);
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (alive[i] == 0) continue;
    ShapeNode node;
    node.parent = i == 0 ? -1 : place[static_cast<size_t>(nodes[i].parent)];
    node.tokens = nodes[i].tokens;
    if (i > 0 && nodes[i].end >= step) {
      node.tokens = step - nodes[i].start;
      node.row_parents = {-1};
    }
    place[i] = static_cast<int32_t>(shape.nodes.size());
    shape.nodes.push_back(std::move(node));
  }
  return shape;
}

Result<RecordedTrees> ReadRecordedTrees(const std::string& path) {
  const auto file = ReadJson("trees", path);
  if (!file) return file.error();
  if (!file->is_array() || file->empty())
    return InvalidArgument("trees", "'" + path + "' is not a list of trees");
  RecordedTrees trees;
  trees.name = std::filesystem::path(path).stem().string();
  for (size_t i = 0; i < file->size(); ++i) {
    try {
      const json& record = (*file)[i];
      if (record.at("incompleted").get<bool>()) {
        ++trees.skipped;
        continue;
      }
      trees.trees.push_back(TreeReader(record.at("data")).Read());
    } catch (const std::exception& error) {
      trees.damaged.push_back("tree " + std::to_string(i) + ", " + error.what());
    }
  }
  if (trees.trees.empty()) return InvalidArgument("trees", "'" + path + "' holds no tree that is whole");
  return trees;
}

Result<std::vector<int32_t>> ReadTokenTree(const std::string& path) {
  const auto file = ReadJson("token_tree", path);
  if (!file) return file.error();
  const auto fail = [&](const std::string& why) {
    return InvalidArgument("token_tree", "'" + path + "': " + why);
  };
  std::vector<std::vector<int32_t>> paths;
  try {
    paths = file->at("Tree_Structure").get<std::vector<std::vector<int32_t>>>();
  } catch (const json::exception& error) {
    return fail(error.what());
  }
  std::sort(paths.begin(), paths.end());
  std::map<std::vector<int32_t>, std::vector<std::vector<int32_t>>> below;
  for (size_t i = 0; i < paths.size(); ++i) {
    const std::string name = json(paths[i]).dump();
    if (paths[i].empty()) return fail("Tree_Structure holds an empty path");
    if (i > 0 && paths[i] == paths[i - 1]) return fail("path " + name + " stands twice");
    const std::vector<int32_t> above(paths[i].begin(), paths[i].end() - 1);
    if (!above.empty() && !std::binary_search(paths.begin(), paths.end(), above))
      return fail("path " + name + " hangs from one that is not there");
    below[above].push_back(paths[i]);
  }
  std::vector<int32_t> parents;
  AppendCandidates(below, {}, -1, &parents);
  return parents;
}

}  // namespace espalier::bench
