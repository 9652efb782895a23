#include "server/cli/json_lines.h"

#include <google/protobuf/descriptor.h>

#include <cstdio>

#include "server/console/text.h"

namespace espalier::cli {
namespace {

Json FinishReasonToJson(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP_TOKEN:
      return "stop_token";
    case v1::FINISH_REASON_STOP_STRING:
      return "stop_string";
    case v1::FINISH_REASON_MAX_TOKENS:
      return "max_tokens";
    case v1::FINISH_REASON_PRUNED:
      return "pruned";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    case v1::FINISH_REASON_ERROR:
      return "error";
    default:
      return nullptr;
  }
}

template <typename Repeated>
Json Array(const Repeated& values) {
  Json array = Json::array();
  for (const auto& value : values) array.push_back(value);
  return array;
}

// [[[id, logprob], ...], ...]: for each token, its most likely alternatives.
Json TopLogprobsToJson(const google::protobuf::RepeatedPtrField<v1::TopLogprobs>& tokens) {
  Json array = Json::array();
  for (const v1::TopLogprobs& token : tokens) {
    Json entries = Json::array();
    for (const v1::TokenLogprob& entry : token.entries()) {
      entries.push_back(Json::array({entry.token_id(), entry.logprob()}));
    }
    array.push_back(std::move(entries));
  }
  return array;
}

Json ToJson(const v1::Started& started) {
  return {{"event", "started"},
          {"request_id", started.request_id()},
          {"seed", started.seed()},
          {"prompt_tokens", started.prompt_tokens()},
          {"cached_tokens", started.cached_tokens()},
          {"prompt_token_ids", Array(started.prompt_token_ids())}};
}

Json ToJson(const v1::Progress& progress) {
  return {{"event", "progress"},
          {"branch", progress.branch()},
          {"computed_tokens", progress.computed_tokens()},
          {"total_tokens", progress.total_tokens()}};
}

Json ToJson(const v1::TreeDelta& delta) {
  Json branches = Json::array();
  for (const v1::BranchDelta& branch : delta.branches()) {
    branches.push_back({{"branch", branch.branch()},
                        {"parent", branch.parent_branch()},
                        {"node", branch.node_id()},
                        {"token_ids", Array(branch.token_ids())},
                        {"text", branch.text()},
                        {"logprobs", Array(branch.logprobs())},
                        {"top_logprobs", TopLogprobsToJson(branch.top_logprobs())},
                        {"finish_reason", FinishReasonToJson(branch.finish_reason())}});
  }
  return {{"event", "delta"}, {"step", delta.step()}, {"branches", std::move(branches)}};
}

Json ToJson(const v1::Selected& selected) {
  return {{"event", "selected"},
          {"node", selected.node_id()},
          {"kept", Array(selected.kept())},
          {"pruned", Array(selected.pruned())},
          {"scores", Array(selected.scores())}};
}

Json ToJson(const v1::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens()},
          {"cached_tokens", usage.cached_tokens()},
          {"computed_tokens", usage.computed_tokens()},
          {"distinct_tokens", usage.distinct_tokens()},
          {"generated_tokens", usage.generated_tokens()},
          {"steps", usage.steps()},
          {"kv_read_bytes", usage.kv_read_bytes()},
          {"kv_read_bytes_sequence", usage.kv_read_bytes_sequence()},
          {"first_token_us", usage.first_token_us()},
          {"total_us", usage.total_us()}};
}

Json ToJson(const v1::Finished& finished) {
  Json branches = Json::array();
  for (const v1::Branch& branch : finished.branches()) {
    branches.push_back({{"branch", branch.branch()},
                        {"parent", branch.parent_branch()},
                        {"node_path", Array(branch.node_path())},
                        {"token_ids", Array(branch.token_ids())},
                        {"text", branch.text()},
                        {"sum_logprob", branch.sum_logprob()},
                        {"finish_reason", FinishReasonToJson(branch.finish_reason())},
                        {"tip", branch.tip()},
                        {"logprobs", Array(branch.logprobs())},
                        {"verdict", branch.has_verdict() ? Json(branch.verdict()) : Json(nullptr)}});
  }
  return {{"event", "finished"}, {"branches", std::move(branches)}, {"usage", ToJson(finished.usage())}};
}

}  // namespace

Json ToJson(const v1::GenerateResponse& response) {
  switch (response.event_case()) {
    case v1::GenerateResponse::kStarted:
      return ToJson(response.started());
    case v1::GenerateResponse::kProgress:
      return ToJson(response.progress());
    case v1::GenerateResponse::kDelta:
      return ToJson(response.delta());
    case v1::GenerateResponse::kSelected:
      return ToJson(response.selected());
    case v1::GenerateResponse::kFinished:
      return ToJson(response.finished());
    case v1::GenerateResponse::EVENT_NOT_SET:
      break;
  }
  return {{"event", "unknown"}};
}

Json ToJson(const v1::ContinuationScore& score, int index) {
  return {{"continuation", index},
          {"token_ids", Array(score.token_ids())},
          {"logprobs", Array(score.logprobs())},
          {"sum_logprob", score.sum_logprob()},
          {"mean_logprob", score.mean_logprob()},
          {"top_logprobs", TopLogprobsToJson(score.top_logprobs())}};
}

Json ScoreUsageToJson(const v1::Usage& usage) {
  return {{"usage",
           {{"prompt_tokens", usage.prompt_tokens()},
            {"cached_tokens", usage.cached_tokens()},
            {"computed_tokens", usage.computed_tokens()},
            {"distinct_tokens", usage.distinct_tokens()}}}};
}

Json MessageToJson(const google::protobuf::Message& message) {
  using google::protobuf::FieldDescriptor;
  const auto* reflection = message.GetReflection();
  Json object = Json::object();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    Json& value = object[field->name()];
    if (field->is_repeated()) {
      value = Json::array();
      for (int k = 0; k < reflection->FieldSize(message, field); ++k) {
        value.push_back(reflection->GetRepeatedInt32(message, field, k));
      }
      continue;
    }
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        value = reflection->GetInt32(message, field);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        value = reflection->GetInt64(message, field);
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        value = reflection->GetBool(message, field);
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        value = reflection->GetString(message, field);
        break;
      default:
        value = nullptr;
        break;
    }
  }
  return object;
}

void PrintMessage(const google::protobuf::Message& message, bool as_json) {
  const Json object = MessageToJson(message);
  if (as_json) return PrintLine(object);
  for (const auto& [name, value] : object.items()) {
    const std::string text = value.is_string() ? Printable(value.get<std::string>()) : value.dump();
    std::printf("%-24s %s\n", name.c_str(), text.c_str());
  }
}

void PrintLine(const Json& object) {
  std::printf("%s\n", object.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  std::fflush(stdout);
}

}  // namespace espalier::cli
