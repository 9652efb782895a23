#include "server/model_service.h"

#include <string>

#include "server/request_limits.h"
#include "server/version.h"

namespace espalier {

grpc::ServerUnaryReactor* ModelService::GetModel(grpc::CallbackServerContext* context,
                                                 const grpc::ByteBuffer* request,
                                                 grpc::ByteBuffer* response) {
  return ServeUnary<v1::GetModelRequest>(
      methods_, context, request, response,
      [this](const v1::GetModelRequest& /*message*/) { return Result<v1::GetModelResponse>(Describe()); });
}

grpc::ServerUnaryReactor* ModelService::Tokenize(grpc::CallbackServerContext* context,
                                                 const grpc::ByteBuffer* request,
                                                 grpc::ByteBuffer* response) {
  return ServeUnary<v1::TokenizeRequest>(
      methods_, context, request, response,
      [this](const v1::TokenizeRequest& message) { return Encode(message); });
}

grpc::ServerUnaryReactor* ModelService::Detokenize(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* response) {
  return ServeUnary<v1::DetokenizeRequest>(
      methods_, context, request, response,
      [this](const v1::DetokenizeRequest& message) { return Decode(message); });
}

v1::GetModelResponse ModelService::Describe() const {
  v1::GetModelResponse response;
  const ModelInfo& model = engine_.model();
  const EngineLimits& limits = engine_.limits();
  response.set_name(model.name);
  response.set_parameters(model.parameters);
  response.set_weight_bytes(model.weight_bytes);
  response.set_vocab_size(model.vocab_size);
  response.set_max_path_tokens(limits.max_path_tokens);
  response.set_bos_token_id(model.bos_token_id);
  response.mutable_eos_token_ids()->Add(model.eos_token_ids.begin(), model.eos_token_ids.end());
  response.set_layers(model.attention.layers);
  response.set_query_heads(model.attention.query_heads);
  response.set_kv_heads(model.attention.kv_heads);
  response.set_head_dim(model.attention.head_dim);
  response.set_backend(model.backend.name);
  response.set_device(model.backend.device);
  response.set_isa(model.backend.isa);
  response.set_dtype(Name(model.backend.dtype));
  response.set_weights(Name(model.backend.weights, model.backend.dtype));
  response.set_threads(model.backend.threads);
  response.set_max_branches(limits.max_branches);
  response.set_block_tokens(limits.block_tokens);
  response.set_blocks_total(limits.total_blocks);
  response.set_attention_mode(std::string(Name(config_.attention_mode)));
  response.set_server_version(kVersion);
  response.set_admin_address(admin_address_);
  return response;
}

Result<v1::TokenizeResponse> ModelService::Encode(const v1::TokenizeRequest& request) const {
  if (request.continues() && request.add_bos())
    return InvalidArgument("add_bos", "a text that continues another has no beginning");
  const auto ids =
      tokenizer_.Encode(request.text(), {.at_start = !request.continues(),
                                         .add_bos = request.add_bos() && tokenizer_.bos_id() >= 0,
                                         .parse_special = request.parse_special()});
  if (!ids) return Error{ids.error().code, "text", ids.error().message};
  v1::TokenizeResponse response;
  response.mutable_token_ids()->Add(ids->begin(), ids->end());
  if (Status status = CheckPieces(response.token_ids(), "text"); !status) return status.error();
  for (const int32_t id : *ids) response.add_pieces(PieceOf(id));
  return response;
}

Result<v1::DetokenizeResponse> ModelService::Decode(const v1::DetokenizeRequest& request) const {
  const int32_t vocab_size = engine_.model().vocab_size;
  for (int i = 0; i < request.token_ids_size(); ++i) {
    const int32_t id = request.token_ids(i);
    if (id >= 0 && id < vocab_size) continue;
    return InvalidArgument("token_ids[" + std::to_string(i) + "]",
                           "must be in [0, " + std::to_string(vocab_size) + "), got " + std::to_string(id));
  }
  if (Status status = CheckPieces(request.token_ids(), "token_ids"); !status) return status.error();
  v1::DetokenizeResponse response;
  for (const int32_t id : request.token_ids()) response.add_pieces(PieceOf(id));
  response.set_text(
      tokenizer_.Decode({request.token_ids().data(), static_cast<size_t>(request.token_ids_size())}));
  return response;
}

Status ModelService::CheckPieces(const google::protobuf::RepeatedField<int32_t>& ids,
                                 const std::string& field) const {
  int64_t bytes = 0;
  for (const int32_t id : ids) bytes += static_cast<int64_t>(PieceOf(id).size());
  if (bytes <= kMaxPiecesBytes) return {};
  return InvalidArgument(field, "the pieces take " + std::to_string(bytes) + " bytes, an answer at most " +
                                    std::to_string(kMaxPiecesBytes));
}

// A model may have more ids than its tokenizer; those beyond have no text.
const std::string& ModelService::PieceOf(int32_t id) const {
  static const std::string kNone;
  return tokenizer_.IsValid(id) ? tokenizer_.Piece(id) : kNone;
}

}  // namespace espalier
