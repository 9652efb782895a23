#include "tests/bench/time_list.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <sstream>
#include <utility>

namespace espalier::bench {

namespace {

constexpr std::array<const char*, 6> kShapeFields = {"dtype",    "query_heads", "kv_heads",
                                                     "head_dim", "query_rows",  "kv_tokens"};

Json ShapeOf(const AttentionWorkload& workload, const AttentionShape& shape) {
  int64_t query_rows = 0;
  int64_t kv_tokens = 0;
  for (const TreeShape& step : workload.steps) {
    query_rows += step.rows();
    kv_tokens += step.tokens();
  }
  return {{"dtype", Name(shape.kv_dtype)}, {"query_heads", shape.query_heads}, {"kv_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},    {"query_rows", query_rows},         {"kv_tokens", kv_tokens}};
}

// What is wrong with an entry; empty: nothing, and `to` holds it.
std::string ReadEntry(const Json& entry, PeerEntry* to) {
  if (!entry.is_object()) return "is not an object";
  const auto workload = entry.find("workload");
  if (workload == entry.end() || !workload->is_string()) return "has no workload, a text";
  to->workload = *workload;
  to->shape = Json::object();
  for (const char* field : kShapeFields) {
    if (!entry.contains(field)) continue;
    const Json& value = entry[field];
    const bool text = std::string(field) == "dtype";
    if (text ? !value.is_string() : !value.is_number_integer())
      return std::string(field) + " is not " + (text ? "a text" : "an integer");
    to->shape[field] = value;
  }
  const auto times = entry.find("times_us");
  if (times == entry.end()) return "";
  if (!times->is_object()) return "times_us is not an object of times by name";
  for (const auto& [name, time] : times->items()) {
    if (!time.is_number() || !(time.get<double>() > 0.0) || !std::isfinite(time.get<double>()))
      return "times_us: '" + name + "' is not a positive number";
    to->times_us[name] = time;
  }
  return "";
}

// [rows] each, as the list has them.
struct RowPlaces {
  std::vector<int32_t> node;
  std::vector<int32_t> parent;
  std::vector<int64_t> kv_tokens;
};

RowPlaces PlacesOf(const TreeShape& shape, const std::vector<std::vector<int32_t>>& paths) {
  RowPlaces rows;
  for (size_t n = 0; n < shape.nodes.size(); ++n) {
    int64_t before = 0;  // tokens before this step that the node's rows see
    for (const int32_t above : paths[n]) before += shape.nodes[static_cast<size_t>(above)].tokens;
    const size_t first = rows.node.size();
    for (const int32_t parent : shape.nodes[n].row_parents) {
      const size_t of_parent = first + static_cast<size_t>(std::max(parent, 0));
      rows.kv_tokens.push_back(1 + (parent < 0 ? before : rows.kv_tokens[of_parent]));
      rows.parent.push_back(parent < 0 ? -1 : static_cast<int32_t>(of_parent));
      rows.node.push_back(static_cast<int32_t>(n));
    }
  }
  return rows;
}

Json StepOf(const TreeShape& shape) {
  std::vector<std::vector<int32_t>> paths;
  Json step;
  for (const char* field : {"node_parent", "node_tokens", "node_rows"}) step[field] = Json::array();
  for (const ShapeNode& node : shape.nodes) {
    paths.push_back(node.parent < 0 ? std::vector<int32_t>() : paths[static_cast<size_t>(node.parent)]);
    paths.back().push_back(static_cast<int32_t>(paths.size()) - 1);
    const auto rows = static_cast<int32_t>(node.row_parents.size());
    step["node_parent"].push_back(node.parent);
    step["node_tokens"].push_back(node.tokens + rows);
    step["node_rows"].push_back(rows);
  }
  const RowPlaces rows = PlacesOf(shape, paths);
  step["row_node"] = rows.node;
  step["row_parent"] = rows.parent;
  step["row_kv_tokens"] = rows.kv_tokens;
  step["row_path"] = Json::array();
  for (const int32_t node : rows.node) step["row_path"].push_back(paths[static_cast<size_t>(node)]);
  return step;
}

// An object with a line for each field.
std::string Lines(const Json& object, const std::string& indent) {
  std::string text = "{";
  const char* separator = "\n";
  for (const auto& [name, value] : object.items()) {
    text += separator + indent + " \"" + name + "\": ";
    if (name == "steps") {
      text += "[";
      for (size_t i = 0; i < value.size(); ++i) text += (i == 0 ? "" : ", ") + Lines(value[i], indent + " ");
      text += "]";
    } else {
      text += value.dump();
    }
    separator = ",\n";
  }
  return text + "\n" + indent + "}";
}

}  // namespace

Result<std::vector<PeerEntry>> ReadPeerTimes(const std::string& path) {
  const auto fail = [&](const std::string& why) {
    return InvalidArgument("peer-times", "'" + path + "' " + why);
  };
  std::ifstream file(path);
  if (!file) return fail("cannot be read");
  std::ostringstream text;
  text << file.rdbuf();
  const Json list = Json::parse(text.str(), nullptr, false);
  if (list.is_discarded()) return fail("is not JSON");
  if (!list.is_array()) return fail("is not an array");
  std::vector<PeerEntry> entries(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string wrong = ReadEntry(list[i], &entries[i]);
    if (!wrong.empty()) return fail("entry " + std::to_string(i) + " " + wrong);
  }
  return entries;
}

PeerTimes TimesOf(const std::vector<PeerEntry>& entries, const AttentionWorkload& workload,
                  const AttentionShape& shape) {
  const Json ours = ShapeOf(workload, shape);
  PeerTimes times;
  for (const PeerEntry& entry : entries) {
    bool same = entry.workload == workload.name;
    for (const auto& [field, value] : entry.shape.items()) same = same && ours[field] == value;
    if (!same) continue;
    for (const auto& [name, time_us] : entry.times_us) times[name] = time_us;
  }
  return times;
}

std::string ShapeList(const std::vector<AttentionWorkload>& workloads, const AttentionShape& shape,
                      const std::vector<Json>& rows) {
  std::string text = "[";
  const char* separator = "\n";
  for (const AttentionWorkload& workload : workloads) {
    Json entry;
    entry["workload"] = workload.name;
    entry.update(ShapeOf(workload, shape));
    entry["times_us"] = Json::object();
    for (const Json& row : rows) {
      if (row["workload"] != workload.name) continue;
      const std::string name =
          "espalier " + row["mode"].get<std::string>() + ", " + row["backend"].get<std::string>();
      entry["times_us"][name] = row["time_us"]["median"];
    }
    entry["steps"] = Json::array();
    for (const TreeShape& step : workload.steps) entry["steps"].push_back(StepOf(step));
    text += separator + Lines(entry, "");
    separator = ",\n";
  }
  return text + "\n]\n";
}

}  // namespace espalier::bench
