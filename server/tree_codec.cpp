#include "server/tree_codec.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "server/message_limits.h"
#include "server/request_limits.h"

namespace espalier {
namespace {

// Checked before the id is quoted in a message: gRPC carries messages of a few KiB only.
Status CheckIdLength(const std::string& id, const std::string& field) {
  if (id.size() <= kMaxNodeIdBytes) return {};
  return InvalidArgument(field, "must have at most " + std::to_string(kMaxNodeIdBytes) + " bytes, has " +
                                    std::to_string(id.size()));
}

std::string Indexed(const char* name, size_t index) {
  return std::string(name) + "[" + std::to_string(index) + "]";
}

Error TooManyTokens(const std::string& field) {
  return InvalidArgument(field,
                         "take more than " + std::to_string(MessageLimits::kMaxNumbers) + " tokens in all");
}

std::vector<int32_t> Ids(const google::protobuf::RepeatedField<int32_t>& field) {
  return {field.begin(), field.end()};
}

// The one way in which texts of requests become tokens. Encoding takes time that grows with the text, so what
// could never fit is refused first: no token is longer than tokenizer.longest_token_bytes().
Result<std::vector<int32_t>> EncodeText(const std::string& text, bool is_root, bool parse_special,
                                        const TextRules& rules, const std::string& field) {
  if (rules.cancelled.load()) return Error{ErrorCode::kCancelled, "", "cancelled"};
  const int64_t max = MaxTextBytes(rules.tokenizer, rules.max_path_tokens);
  const std::string path_tokens = std::to_string(rules.max_path_tokens);
  if (static_cast<int64_t>(text.size()) > max) {
    return InvalidArgument(field, "has " + std::to_string(text.size()) + " bytes, the " + path_tokens +
                                      " tokens of a path hold at most " + std::to_string(max));
  }
  const EncodeOptions options{.at_start = is_root,
                              .add_bos = is_root && rules.tokenizer.add_bos_by_default(),
                              .parse_special = parse_special};
  auto ids = rules.tokenizer.Encode(text, options);
  if (!ids) return Error{ids.error().code, field, ids.error().message};
  if (ids->empty()) return InvalidArgument(field, "holds no token");
  if (ids->size() > static_cast<size_t>(rules.max_path_tokens)) {
    return InvalidArgument(
        field, "takes " + std::to_string(ids->size()) + " tokens, a path holds at most " + path_tokens);
  }
  return ids;
}

Result<GivenSpec> GivenFromProto(const v1::Given& message, bool is_root, const TextRules& rules,
                                 const std::string& path) {
  GivenSpec given;
  given.score = message.score();
  given.top_logprobs = message.top_logprobs();
  switch (message.tokens_case()) {
    case v1::Given::kText: {
      auto ids = EncodeText(message.text(), is_root, message.parse_special(), rules, path + ".text");
      if (!ids) return ids.error();
      given.token_ids = std::move(*ids);
      return given;
    }
    case v1::Given::kTokenIds:
      given.token_ids = Ids(message.token_ids().ids());
      return given;
    case v1::Given::TOKENS_NOT_SET:
      break;
  }
  return InvalidArgument(path, "needs text or token_ids");
}

SamplingParams SamplingFromProto(const v1::Sampling& message) {
  SamplingParams params;
  if (message.has_temperature()) params.temperature = message.temperature();
  params.top_k = message.top_k();
  if (message.has_top_p()) params.top_p = message.top_p();
  params.min_p = message.min_p();
  if (message.has_repetition_penalty()) params.repetition_penalty = message.repetition_penalty();
  params.presence_penalty = message.presence_penalty();
  params.frequency_penalty = message.frequency_penalty();
  for (const v1::LogitBias& entry : message.logit_bias()) {
    params.logit_bias.emplace_back(entry.token_id(), entry.bias());
  }
  return params;
}

GenerateSpec GenerateFromProto(const v1::Generate& message) {
  GenerateSpec generate;
  if (message.branches() != 0) generate.branches = message.branches();
  if (message.max_new_tokens() != 0) generate.max_new_tokens = message.max_new_tokens();
  generate.sampling = SamplingFromProto(message.sampling());
  generate.stop_token_ids = Ids(message.stop_token_ids());
  generate.stop_strings = {message.stop_strings().begin(), message.stop_strings().end()};
  generate.ignore_eos = message.ignore_eos();
  generate.top_logprobs = message.top_logprobs();
  return generate;
}

Result<SelectSpec> SelectFromProto(const v1::Select& message, const std::string& path) {
  SelectSpec select;
  select.keep = message.keep();
  switch (message.score()) {
    case v1::SELECT_SCORE_SUM_LOGPROB:
      select.score = SelectScore::kSumLogprob;
      break;
    case v1::SELECT_SCORE_MEAN_LOGPROB:
      select.score = SelectScore::kMeanLogprob;
      break;
    case v1::SELECT_SCORE_LATEST_VERDICT:
      select.score = SelectScore::kLatestVerdict;
      break;
    case v1::SELECT_SCORE_SUM_VERDICTS:
      select.score = SelectScore::kSumVerdicts;
      break;
    default:
      return InvalidArgument(path + ".score", "must be one of SelectScore's values but UNSPECIFIED");
  }
  switch (message.scope()) {
    case v1::SELECT_SCOPE_UNSPECIFIED:
    case v1::SELECT_SCOPE_LEVEL:
      select.scope = SelectScope::kLevel;
      break;
    case v1::SELECT_SCOPE_SIBLINGS:
      select.scope = SelectScope::kSiblings;
      break;
    default:
      return InvalidArgument(path + ".scope", "must be one of SelectScope's values");
  }
  return select;
}

v1::FinishReason ReasonToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return v1::FINISH_REASON_UNSPECIFIED;
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kMaxTokens:
      return v1::FINISH_REASON_MAX_TOKENS;
    case FinishReason::kPruned:
      return v1::FINISH_REASON_PRUNED;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

}  // namespace

Result<TreeRequest> FromProto(const v1::GenerateRequest& message, const TextRules& rules, uint64_t seed) {
  if (message.nodes().empty()) return InvalidArgument("nodes", "the tree is empty");
  if (message.nodes_size() > kMaxNodesPerRequest) {
    return InvalidArgument("nodes", "must be at most " + std::to_string(kMaxNodesPerRequest));
  }
  TreeRequest request;
  request.seed = message.has_seed() ? message.seed() : seed;
  request.cache_bypass = message.cache_bypass();
  request.cache_namespace = message.cache_namespace();
  request.return_prompt_ids = message.return_prompt_ids();
  request.return_logprobs = message.return_logprobs();

  int64_t tokens = 0;
  std::map<std::string, int32_t> index_of_id;  // hashes of ids that a client chose could all be equal
  for (int i = 0; i < message.nodes_size(); ++i) {
    const v1::TreeNode& node = message.nodes(i);
    const std::string path = Indexed("nodes", static_cast<size_t>(i));
    TreeNodeSpec spec;
    spec.id = node.id();
    if (node.id().empty()) return InvalidArgument(path + ".id", "must not be empty");
    if (Status status = CheckIdLength(node.id(), path + ".id"); !status) return status.error();
    if (Status status = CheckIdLength(node.parent_id(), path + ".parent_id"); !status) return status.error();
    if (!index_of_id.emplace(node.id(), i).second) {
      return InvalidArgument(path + ".id", "'" + node.id() + "' names an earlier node too");
    }
    if (i == 0 && !node.parent_id().empty()) {
      return InvalidArgument(path + ".parent_id", "the first node is the root and has no parent");
    }
    if (i > 0) {
      const auto parent = index_of_id.find(node.parent_id());
      if (node.parent_id().empty())
        return InvalidArgument(path + ".parent_id", "only the first node is a root");
      if (parent == index_of_id.end() || parent->second == i) {
        return InvalidArgument(path + ".parent_id",
                               "'" + node.parent_id() + "' is not the id of an earlier node");
      }
      spec.parent = parent->second;
    }
    switch (node.content_case()) {
      case v1::TreeNode::kGiven: {
        auto given = GivenFromProto(node.given(), i == 0, rules, path + ".given");
        if (!given) return given.error();
        tokens += static_cast<int64_t>(given->token_ids.size());
        if (tokens > MessageLimits::kMaxNumbers) return TooManyTokens("nodes");
        spec.content = std::move(*given);
        break;
      }
      case v1::TreeNode::kGenerate:
        spec.content = GenerateFromProto(node.generate());
        break;
      case v1::TreeNode::kSelect: {
        auto select = SelectFromProto(node.select(), path + ".select");
        if (!select) return select.error();
        spec.content = *select;
        break;
      }
      case v1::TreeNode::CONTENT_NOT_SET:
        return InvalidArgument(path, "needs one of given, generate and select");
    }
    request.nodes.push_back(std::move(spec));
  }
  return request;
}

namespace {

Result<std::vector<int32_t>> ScorePrompt(const v1::ScoreRequest& message, const TextRules& rules) {
  if (!message.prompt_text().empty()) {
    if (message.has_prompt())
      return InvalidArgument("prompt_text", "the prompt is in `prompt` too: one of the two");
    return EncodeText(message.prompt_text(), true, message.parse_special(), rules, "prompt_text");
  }
  if (message.prompt().ids().empty())
    return InvalidArgument("prompt.ids", "the prompt is empty; it is given here or in prompt_text");
  return Ids(message.prompt().ids());
}

Status CheckContinuationCount(const v1::ScoreRequest& message) {
  const bool texts = message.continuation_texts_size() > 0;
  if (texts && message.continuations_size() > 0)
    return InvalidArgument("continuation_texts", "there are `continuations` too: one of the two");
  if (!texts && message.continuations().empty())
    return InvalidArgument("continuations", "needs at least one, here or in continuation_texts");
  if (std::max(message.continuations_size(), message.continuation_texts_size()) < kMaxNodesPerRequest)
    return {};
  return InvalidArgument(texts ? "continuation_texts" : "continuations",
                         "must be fewer than " + std::to_string(kMaxNodesPerRequest));
}

std::string ContinuationField(const v1::ScoreRequest& message, int i) {
  return Indexed(message.continuation_texts_size() > 0 ? "continuation_texts" : "continuations",
                 static_cast<size_t>(i));
}

}  // namespace

Result<TreeRequest> FromProto(const v1::ScoreRequest& message, const TextRules& rules) {
  if (Status status = CheckContinuationCount(message); !status) return status.error();
  auto prompt = ScorePrompt(message, rules);
  if (!prompt) return prompt.error();
  TreeRequest request;
  request.cache_bypass = message.cache_bypass();
  request.cache_namespace = message.cache_namespace();
  request.nodes.push_back({"prompt", -1, GivenSpec{std::move(*prompt), false, 0}});
  for (int i = 0; i < message.continuations_size(); ++i) {
    const auto& ids = message.continuations(i).ids();
    const std::string field = ContinuationField(message, i);
    if (ids.empty()) return InvalidArgument(field + ".ids", "the continuation is empty");
    request.nodes.push_back({field, 0, GivenSpec{Ids(ids), true, message.top_logprobs()}});
  }
  int64_t tokens = 0;
  for (int i = 0; i < message.continuation_texts_size(); ++i) {
    const std::string field = ContinuationField(message, i);
    auto ids = EncodeText(message.continuation_texts(i), false, message.parse_special(), rules, field);
    if (!ids) return ids.error();
    tokens += static_cast<int64_t>(ids->size());
    if (tokens > MessageLimits::kMaxNumbers) return TooManyTokens("continuation_texts");
    request.nodes.push_back({field, 0, GivenSpec{std::move(*ids), true, message.top_logprobs()}});
  }
  return request;
}

Error WithScoreField(Error error, const v1::ScoreRequest& message) {
  constexpr std::string_view kNode = "nodes[";
  const bool texts = message.continuation_texts_size() > 0;
  if (error.field == "nodes") error.field = texts ? "continuation_texts" : "continuations";
  if (error.field.rfind(kNode, 0) != 0) return error;
  const size_t close = error.field.find(']');
  const int node = std::atoi(error.field.c_str() + kNode.size());
  std::string rest = error.field.substr(close + 1);
  if (rest == ".given.top_logprobs") {
    error.field = "top_logprobs";
    return error;
  }
  const bool as_text = node == 0 ? !message.has_prompt() : texts;
  constexpr std::string_view kIds = ".given.token_ids";
  if (as_text) {
    rest.clear();
  } else if (rest.rfind(kIds, 0) == 0) {
    rest.erase(0, kIds.size());
  } else if (rest == ".given") {
    rest = ".ids";
  }
  const char* prompt = as_text ? "prompt_text" : "prompt";
  error.field = (node == 0 ? prompt : ContinuationField(message, node - 1)) + rest;
  return error;
}

void ToProto(const std::vector<TokenLogprob>& entries, v1::TopLogprobs& message) {
  for (const TokenLogprob& entry : entries) {
    v1::TokenLogprob& added = *message.add_entries();
    added.set_token_id(entry.token_id);
    added.set_logprob(entry.logprob);
  }
}

void ToProto(const TreeUsage& usage, v1::Usage& message) {
  message.set_prompt_tokens(usage.prompt_tokens);
  message.set_cached_tokens(usage.cached_tokens);
  message.set_computed_tokens(usage.computed_tokens);
  message.set_distinct_tokens(usage.distinct_tokens);
  message.set_generated_tokens(usage.generated_tokens);
  message.set_steps(usage.steps);
  message.set_kv_read_bytes(usage.kv_read_bytes);
  message.set_kv_read_bytes_sequence(usage.kv_read_bytes_sequence);
  message.set_first_token_us(usage.first_token_us);
  message.set_total_us(usage.total_us);
}

TreeEncoder::TreeEncoder(const TreeRequest& request) {
  for (const TreeNodeSpec& node : request.nodes) {
    node_ids_.push_back(node.id);
    node_parents_.push_back(node.parent);
    const int64_t above = node.parent < 0 ? 0 : path_bytes_[static_cast<size_t>(node.parent)];
    path_bytes_.push_back(above + static_cast<int64_t>(node.id.size()) + 3);
  }
}

int64_t TreeEncoder::BytesOf(const TreeFinished& event) const {
  int64_t bytes = 128;  // usage
  for (const BranchSummary& branch : event.branches) {
    bytes += 64 + path_bytes_[static_cast<size_t>(branch.node)];
    bytes += static_cast<int64_t>(5 * branch.token_ids.size() + branch.text.size());
  }
  return bytes;
}

v1::GenerateResponse TreeEncoder::ToProto(const TreeStarted& event) const {
  v1::GenerateResponse response;
  v1::Started& started = *response.mutable_started();
  started.set_request_id(event.request_id);
  started.set_seed(event.seed);
  started.set_prompt_tokens(event.prompt_tokens);
  started.set_cached_tokens(event.cached_tokens);
  started.mutable_prompt_token_ids()->Add(event.prompt_token_ids.begin(), event.prompt_token_ids.end());
  return response;
}

v1::GenerateResponse TreeEncoder::ToProto(const TreeProgress& event) const {
  v1::GenerateResponse response;
  v1::Progress& progress = *response.mutable_progress();
  progress.set_branch(event.branch);
  progress.set_computed_tokens(event.computed_tokens);
  progress.set_total_tokens(event.total_tokens);
  return response;
}

v1::GenerateResponse TreeEncoder::ToProto(TreeDelta event) const {
  v1::GenerateResponse response;
  response.mutable_delta()->set_step(event.step);
  for (BranchDelta& branch : event.branches) {
    v1::BranchDelta& delta = *response.mutable_delta()->add_branches();
    delta.set_branch(branch.branch);
    delta.set_parent_branch(branch.parent);
    delta.set_node_id(node_ids_[static_cast<size_t>(branch.node)]);
    delta.mutable_token_ids()->Add(branch.token_ids.begin(), branch.token_ids.end());
    delta.set_text(std::move(branch.text));
    delta.mutable_logprobs()->Add(branch.logprobs.begin(), branch.logprobs.end());
    for (const auto& entries : branch.top_logprobs) espalier::ToProto(entries, *delta.add_top_logprobs());
    delta.set_finish_reason(ReasonToProto(branch.finish_reason));
  }
  return response;
}

v1::GenerateResponse TreeEncoder::ToProto(const TreeSelected& event) const {
  v1::GenerateResponse response;
  v1::Selected& selected = *response.mutable_selected();
  selected.set_node_id(node_ids_[static_cast<size_t>(event.node)]);
  selected.mutable_kept()->Add(event.kept.begin(), event.kept.end());
  selected.mutable_pruned()->Add(event.pruned.begin(), event.pruned.end());
  selected.mutable_scores()->Add(event.scores.begin(), event.scores.end());
  return response;
}

v1::GenerateResponse TreeEncoder::ToProto(const TreeFinished& event) const {
  v1::GenerateResponse response;
  v1::Finished& finished = *response.mutable_finished();
  for (const BranchSummary& summary : event.branches) {
    v1::Branch& branch = *finished.add_branches();
    branch.set_branch(summary.branch);
    branch.set_parent_branch(summary.parent);
    std::vector<int32_t> path;
    for (int32_t node = summary.node; node >= 0; node = node_parents_[static_cast<size_t>(node)])
      path.push_back(node);
    for (auto node = path.rbegin(); node != path.rend(); ++node) {
      branch.add_node_path(node_ids_[static_cast<size_t>(*node)]);
    }
    branch.mutable_token_ids()->Add(summary.token_ids.begin(), summary.token_ids.end());
    branch.set_text(summary.text);
    branch.set_sum_logprob(summary.sum_logprob);
    branch.set_finish_reason(ReasonToProto(summary.finish_reason));
    branch.set_tip(summary.terminal);
    branch.mutable_logprobs()->Add(summary.logprobs.begin(), summary.logprobs.end());
    if (summary.verdict) branch.set_verdict(*summary.verdict);
  }
  espalier::ToProto(event.usage, *finished.mutable_usage());
  return response;
}

}  // namespace espalier
