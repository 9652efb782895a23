#include "server/request_limits.h"

#include "espalier/v1/model.pb.h"
#include "espalier/v1/tree.pb.h"

namespace espalier {
namespace {

template <typename Message>
const google::protobuf::FieldDescriptor* Field(int number) {
  return Message::descriptor()->FindFieldByNumber(number);
}

}  // namespace

int64_t MaxTextBytes(const Tokenizer& tokenizer, int32_t max_path_tokens) {
  return static_cast<int64_t>(max_path_tokens) * static_cast<int64_t>(tokenizer.longest_token_bytes());
}

MessageLimits RequestLimits(const EngineLimits& limits, const Tokenizer& tokenizer) {
  MessageLimits all;
  const int64_t max_text_bytes = MaxTextBytes(tokenizer, limits.max_path_tokens);
  using v1::GenerateRequest, v1::TreeNode, v1::Given, v1::Generate, v1::Sampling, v1::TokenIds;
  all.SetMaxCount(Field<GenerateRequest>(GenerateRequest::kNodesFieldNumber), kMaxNodesPerRequest);
  all.SetMaxBytes(Field<GenerateRequest>(GenerateRequest::kCacheNamespaceFieldNumber), kMaxNamespaceBytes);
  all.SetMaxBytes(Field<TreeNode>(TreeNode::kIdFieldNumber), kMaxNodeIdBytes);
  all.SetMaxBytes(Field<TreeNode>(TreeNode::kParentIdFieldNumber), kMaxNodeIdBytes);
  all.SetMaxBytes(Field<Given>(Given::kTextFieldNumber), max_text_bytes);
  all.SetMaxCount(Field<TokenIds>(TokenIds::kIdsFieldNumber), limits.max_path_tokens);
  all.SetMaxCount(Field<Generate>(Generate::kStopStringsFieldNumber), kMaxStopStrings);
  all.SetMaxBytes(Field<Generate>(Generate::kStopStringsFieldNumber), kMaxStopStringBytes);
  all.SetMaxCount(Field<Generate>(Generate::kStopTokenIdsFieldNumber), kMaxStopTokens);
  all.SetMaxCount(Field<Sampling>(Sampling::kLogitBiasFieldNumber), kMaxLogitBiases);

  using v1::ScoreRequest, v1::TokenizeRequest, v1::DetokenizeRequest;
  all.SetMaxCount(Field<ScoreRequest>(ScoreRequest::kContinuationsFieldNumber), kMaxNodesPerRequest - 1);
  all.SetMaxCount(Field<ScoreRequest>(ScoreRequest::kContinuationTextsFieldNumber), kMaxNodesPerRequest - 1);
  all.SetMaxBytes(Field<ScoreRequest>(ScoreRequest::kContinuationTextsFieldNumber), max_text_bytes);
  all.SetMaxBytes(Field<ScoreRequest>(ScoreRequest::kPromptTextFieldNumber), max_text_bytes);
  all.SetMaxBytes(Field<ScoreRequest>(ScoreRequest::kCacheNamespaceFieldNumber), kMaxNamespaceBytes);

  all.SetMaxBytes(Field<TokenizeRequest>(TokenizeRequest::kTextFieldNumber), kMaxTokenizeBytes);
  all.SetMaxCount(Field<DetokenizeRequest>(DetokenizeRequest::kTokenIdsFieldNumber), kMaxDetokenizeIds);
  return all;
}

}  // namespace espalier
