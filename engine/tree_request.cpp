#include "engine/tree_request.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "engine/tree_cost.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

constexpr float kMaxLogitBias = 100.0F;

std::string NodeField(size_t i) { return "nodes[" + std::to_string(i) + "]"; }

// The shortest text that reads back as the same value: no 1e-40 that looks like 0, no 1.0000001 like 1.
template <typename T>
std::string Got(T value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

// Both ends included unless `low_open`. Infinities and NaN are in no range.
Status CheckRange(float value, double low, bool low_open, double high, const std::string& field) {
  const bool inside = std::isfinite(value) && (low_open ? value > low : value >= low) && value <= high;
  if (inside) return {};
  return InvalidArgument(field, std::string("must be in ") + (low_open ? "(" : "[") + Got(low) + ", " +
                                    Got(high) + "], got " + Got(value));
}

Status CheckCount(int64_t value, int64_t low, int64_t high, const std::string& field) {
  if (value >= low && value <= high) return {};
  std::string message = "must be at least " + std::to_string(low);
  if (value > high) message = "must be at most " + std::to_string(high);
  return InvalidArgument(field, message + ", got " + std::to_string(value));
}

Status CheckText(std::string_view text, size_t max_bytes, const std::string& field) {
  if (text.empty()) return InvalidArgument(field, "must not be empty");
  if (text.size() > max_bytes) {
    return InvalidArgument(field, "must have at most " + std::to_string(max_bytes) + " bytes, has " +
                                      std::to_string(text.size()));
  }
  if (FindInvalidUtf8(text) != std::string_view::npos) return InvalidArgument(field, "is not valid UTF-8");
  return {};
}

Status CheckToken(int32_t token_id, int32_t vocab_size, const std::string& field) {
  if (token_id >= 0 && token_id < vocab_size) return {};
  return InvalidArgument(field, "must be a token id in [0, " + std::to_string(vocab_size) + "), got " +
                                    std::to_string(token_id));
}

Status CheckTokens(const std::vector<int32_t>& token_ids, int32_t vocab_size, const std::string& field) {
  for (size_t i = 0; i < token_ids.size(); ++i) {
    if (token_ids[i] >= 0 && token_ids[i] < vocab_size) continue;
    return CheckToken(token_ids[i], vocab_size, field + "[" + std::to_string(i) + "]");
  }
  return {};
}

#define ESPALIER_RETURN_IF_BAD(expression) \
  if (Status status = (expression); !status.ok()) return status

Status CheckSampling(const SamplingParams& sampling, int32_t vocab_size, const std::string& field) {
  ESPALIER_RETURN_IF_BAD(CheckRange(sampling.temperature, 0, false, 100, field + ".temperature"));
  ESPALIER_RETURN_IF_BAD(CheckCount(sampling.top_k, 0, INT32_MAX, field + ".top_k"));
  ESPALIER_RETURN_IF_BAD(CheckRange(sampling.top_p, 0, true, 1, field + ".top_p"));
  ESPALIER_RETURN_IF_BAD(CheckRange(sampling.min_p, 0, false, 1, field + ".min_p"));
  ESPALIER_RETURN_IF_BAD(CheckRange(sampling.repetition_penalty, 0, true, 10, field + ".repetition_penalty"));
  ESPALIER_RETURN_IF_BAD(CheckRange(sampling.presence_penalty, -2, false, 2, field + ".presence_penalty"));
  ESPALIER_RETURN_IF_BAD(CheckRange(sampling.frequency_penalty, -2, false, 2, field + ".frequency_penalty"));
  if (sampling.logit_bias.size() > kMaxLogitBiases) {
    return InvalidArgument(field + ".logit_bias", "must have at most " + std::to_string(kMaxLogitBiases) +
                                                      " entries, has " +
                                                      std::to_string(sampling.logit_bias.size()));
  }
  for (size_t i = 0; i < sampling.logit_bias.size(); ++i) {
    const auto& [token_id, bias] = sampling.logit_bias[i];
    const std::string entry = field + ".logit_bias[" + std::to_string(i) + "]";
    ESPALIER_RETURN_IF_BAD(CheckToken(token_id, vocab_size, entry + ".token_id"));
    ESPALIER_RETURN_IF_BAD(CheckRange(bias, -kMaxLogitBias, false, kMaxLogitBias, entry + ".bias"));
  }
  return {};
}

Status CheckGiven(const GivenSpec& given, bool is_root, const EngineLimits& limits,
                  const std::string& field) {
  if (given.token_ids.empty()) return InvalidArgument(field, "must have at least one token");
  ESPALIER_RETURN_IF_BAD(CheckTokens(given.token_ids, limits.vocab_size, field + ".token_ids.ids"));
  if (is_root && given.score) {
    return InvalidArgument(
        field + ".score",
        "the root cannot be scored, its first token has nothing before it: give that token "
        "to the root and the rest to a child");
  }
  ESPALIER_RETURN_IF_BAD(CheckCount(given.top_logprobs, 0, kMaxTopLogprobs, field + ".top_logprobs"));
  if (given.top_logprobs > 0 && !given.score) {
    return InvalidArgument(field + ".top_logprobs", "needs `score`");
  }
  return {};
}

Status CheckGenerate(const GenerateSpec& generate, const EngineLimits& limits, const std::string& field) {
  ESPALIER_RETURN_IF_BAD(CheckCount(generate.branches, 1, limits.max_branches, field + ".branches"));
  ESPALIER_RETURN_IF_BAD(
      CheckCount(generate.max_new_tokens, 1, limits.max_path_tokens, field + ".max_new_tokens"));
  ESPALIER_RETURN_IF_BAD(CheckSampling(generate.sampling, limits.vocab_size, field + ".sampling"));
  ESPALIER_RETURN_IF_BAD(CheckCount(generate.top_logprobs, 0, kMaxTopLogprobs, field + ".top_logprobs"));
  if (generate.stop_token_ids.size() > kMaxStopTokens) {
    return InvalidArgument(field + ".stop_token_ids",
                           "must have at most " + std::to_string(kMaxStopTokens) + " entries");
  }
  ESPALIER_RETURN_IF_BAD(CheckTokens(generate.stop_token_ids, limits.vocab_size, field + ".stop_token_ids"));
  if (generate.stop_strings.size() > kMaxStopStrings) {
    return InvalidArgument(field + ".stop_strings",
                           "must have at most " + std::to_string(kMaxStopStrings) + " entries");
  }
  for (size_t i = 0; i < generate.stop_strings.size(); ++i) {
    ESPALIER_RETURN_IF_BAD(CheckText(generate.stop_strings[i], kMaxStopStringBytes,
                                     field + ".stop_strings[" + std::to_string(i) + "]"));
  }
  return {};
}

// What stands on the path from the root to the end of a node.
struct PathState {
  bool generates = false;
  bool has_verdict = false;  // a scored given node
  int64_t tokens = 0;
};

Status CheckSelect(const SelectSpec& select, const PathState& path, const std::string& node) {
  const std::string field = node + ".select";
  ESPALIER_RETURN_IF_BAD(CheckCount(select.keep, 1, INT32_MAX, field + ".keep"));
  if (!path.generates) {
    return InvalidArgument(node + ".parent_id", "nothing to select: no node above generates branches");
  }
  const bool by_verdict =
      select.score == SelectScore::kLatestVerdict || select.score == SelectScore::kSumVerdicts;
  if (by_verdict && !path.has_verdict) {
    return InvalidArgument(field + ".score", "a verdict needs a given node with `score` on the path");
  }
  return {};
}

Status CheckParent(const TreeRequest& request, size_t i) {
  const TreeNodeSpec& node = request.nodes[i];
  const std::string field = NodeField(i) + ".parent_id";
  if (i == 0) {
    if (node.parent != -1) return InvalidArgument(field, "the first node is the root and has no parent");
    if (!std::holds_alternative<GivenSpec>(node.content)) {
      return InvalidArgument(NodeField(0) + ".given", "the root must be given");
    }
    return {};
  }
  if (node.parent < 0) return InvalidArgument(field, "only the first node is a root");
  if (node.parent >= static_cast<int32_t>(i)) {
    return InvalidArgument(field, "a parent must stand before its children");
  }
  return {};
}

// A node's own fields, and what they mean after the path before it.
Status CheckNode(const TreeRequest& request, size_t i, const EngineLimits& limits, PathState* path) {
  const TreeNodeSpec& node = request.nodes[i];
  std::string tokens_field;
  if (const auto* given = std::get_if<GivenSpec>(&node.content)) {
    ESPALIER_RETURN_IF_BAD(CheckGiven(*given, i == 0, limits, NodeField(i) + ".given"));
    path->has_verdict = path->has_verdict || given->score;
    path->tokens += static_cast<int64_t>(given->token_ids.size());
    tokens_field = ".given";
  } else if (const auto* generate = std::get_if<GenerateSpec>(&node.content)) {
    ESPALIER_RETURN_IF_BAD(CheckGenerate(*generate, limits, NodeField(i) + ".generate"));
    path->generates = true;
    path->tokens += generate->max_new_tokens;
    tokens_field = ".generate.max_new_tokens";
  } else {
    ESPALIER_RETURN_IF_BAD(CheckSelect(std::get<SelectSpec>(node.content), *path, NodeField(i)));
  }
  if (path->tokens > limits.max_path_tokens) {
    return InvalidArgument(NodeField(i) + tokens_field,
                           "the path to the end of this node may take " + std::to_string(path->tokens) +
                               " tokens, the model holds " + std::to_string(limits.max_path_tokens));
  }
  return {};
}

Status CheckNodes(const TreeRequest& request, const EngineLimits& limits) {
  std::set<std::string_view> ids;
  std::vector<PathState> paths(request.nodes.size());
  for (size_t i = 0; i < request.nodes.size(); ++i) {
    const TreeNodeSpec& node = request.nodes[i];
    ESPALIER_RETURN_IF_BAD(CheckText(node.id, kMaxNodeIdBytes, NodeField(i) + ".id"));
    if (!ids.insert(node.id).second) {
      return InvalidArgument(NodeField(i) + ".id", "`" + node.id + "` names an earlier node");
    }
    ESPALIER_RETURN_IF_BAD(CheckParent(request, i));
    if (i > 0) paths[i] = paths[static_cast<size_t>(node.parent)];
    ESPALIER_RETURN_IF_BAD(CheckNode(request, i, limits, &paths[i]));
  }
  return {};
}

// Names the node that takes the most.
Error AnswerTooLarge(const TreeRequest& request, const TreeCost& cost, const EngineLimits& limits) {
  const auto by_bytes = [](const TreeNodeCost& a, const TreeNodeCost& b) {
    return a.answer_bytes < b.answer_bytes;
  };
  const auto largest = std::max_element(cost.nodes.begin(), cost.nodes.end(), by_bytes);
  const auto i = static_cast<size_t>(largest - cost.nodes.begin());
  const auto& content = request.nodes[i].content;
  const char* kind = std::holds_alternative<GivenSpec>(content)      ? ".given"
                     : std::holds_alternative<GenerateSpec>(content) ? ".generate"
                                                                     : ".select";
  return InvalidArgument(
      NodeField(i) + kind,
      "the answer may take " + std::to_string(cost.answer_bytes) + " bytes, " +
          std::to_string(largest->answer_bytes) + " of them for this node's " +
          std::to_string(largest->branches) + " branches; the limit is " +
          std::to_string(limits.max_answer_bytes) +
          " (max_answer_bytes of the server): ask for fewer branches, tokens or top_logprobs, or give the "
          "nodes shorter ids");
}

Status CheckCost(const TreeRequest& request, const EngineLimits& limits) {
  const TreeCost cost = CostOf(request, limits);
  for (size_t i = 0; i < request.nodes.size(); ++i) {
    if (cost.nodes[i].branches > limits.max_branches) {
      return InvalidArgument(NodeField(i) + ".generate.branches",
                             "more than " + std::to_string(limits.max_branches) + " branches at this node");
    }
  }
  if (cost.leaves > limits.max_branches) {
    return InvalidArgument("nodes", "the tree may have " + std::to_string(cost.leaves) +
                                        " branches at one time, the limit is " +
                                        std::to_string(limits.max_branches));
  }
  if (cost.answer_entries > kMaxAnswerEntries) {
    return InvalidArgument("nodes", "the answer would list " + std::to_string(cost.answer_entries) +
                                        " nodes of paths and candidates, the limit is " +
                                        std::to_string(kMaxAnswerEntries));
  }
  if (cost.answer_bytes > limits.max_answer_bytes) return AnswerTooLarge(request, cost, limits);
  if (cost.min_blocks > limits.total_blocks) {
    return InvalidArgument("nodes", "needs " + std::to_string(cost.min_blocks) + " KV blocks of " +
                                        std::to_string(limits.block_tokens) + " tokens, there are " +
                                        std::to_string(limits.total_blocks));
  }
  return {};
}

}  // namespace

Status ValidateTreeRequest(const TreeRequest& request, const EngineLimits& limits) {
  if (request.nodes.empty()) return InvalidArgument("nodes", "must have at least one node");
  ESPALIER_RETURN_IF_BAD(
      CheckCount(static_cast<int64_t>(request.nodes.size()), 1, kMaxNodesPerRequest, "nodes"));
  if (request.cache_namespace.size() > kMaxNamespaceBytes) {
    return InvalidArgument("cache_namespace",
                           "must have at most " + std::to_string(kMaxNamespaceBytes) + " bytes");
  }
  ESPALIER_RETURN_IF_BAD(CheckNodes(request, limits));
  return CheckCost(request, limits);
}

#undef ESPALIER_RETURN_IF_BAD

}  // namespace espalier
