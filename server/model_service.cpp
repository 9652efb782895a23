#include "server/model_service.h"

#include <string>

#include "server/version.h"
#include "server/wire.h"

namespace espalier {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const grpc::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

}  // namespace

grpc::ServerUnaryReactor* ModelService::GetModel(grpc::CallbackServerContext* context,
                                                 const v1::GetModelRequest* /*request*/,
                                                 v1::GetModelResponse* response) {
  const ModelInfo& model = engine_.model();
  const EngineLimits& limits = engine_.limits();
  response->set_name(model.name);
  response->set_parameters(model.parameters);
  response->set_weight_bytes(model.weight_bytes);
  response->set_vocab_size(model.vocab_size);
  response->set_max_path_tokens(limits.max_path_tokens);
  response->set_bos_token_id(model.bos_token_id);
  response->mutable_eos_token_ids()->Add(model.eos_token_ids.begin(), model.eos_token_ids.end());
  response->set_layers(model.attention.layers);
  response->set_query_heads(model.attention.query_heads);
  response->set_kv_heads(model.attention.kv_heads);
  response->set_head_dim(model.attention.head_dim);
  response->set_backend(model.backend.name);
  response->set_device(model.backend.device);
  response->set_isa(model.backend.isa);
  response->set_dtype(Name(model.backend.dtype));
  response->set_weights(Name(model.backend.weights, model.backend.dtype));
  response->set_threads(model.backend.threads);
  response->set_max_branches(limits.max_branches);
  response->set_block_tokens(limits.block_tokens);
  response->set_blocks_total(limits.total_blocks);
  response->set_attention_mode(std::string(Name(config_.attention_mode)));
  response->set_server_version(kVersion);
  response->set_admin_address(admin_address_);
  return Answer(context, grpc::Status::OK);
}

grpc::ServerUnaryReactor* ModelService::Tokenize(grpc::CallbackServerContext* context,
                                                 const grpc::ByteBuffer* request,
                                                 grpc::ByteBuffer* response) {
  v1::TokenizeRequest message;
  if (Status status = ParseMessage(*request, message); !status)
    return Answer(context, ToStatus(status.error()));
  if (message.continues() && message.add_bos())
    return Answer(context,
                  ToStatus(InvalidArgument("add_bos", "a text that continues another has no beginning")));
  const auto ids =
      tokenizer_.Encode(message.text(), {.at_start = !message.continues(),
                                         .add_bos = message.add_bos() && tokenizer_.bos_id() >= 0,
                                         .parse_special = message.parse_special()});
  if (!ids) return Answer(context, ToStatus(InvalidArgument("text", ids.error().message)));
  v1::TokenizeResponse answer;
  for (const int32_t id : *ids) {
    answer.add_token_ids(id);
    answer.add_pieces(tokenizer_.Piece(id));
  }
  *response = SerializeMessage(answer);
  return Answer(context, grpc::Status::OK);
}

grpc::ServerUnaryReactor* ModelService::Detokenize(grpc::CallbackServerContext* context,
                                                   const v1::DetokenizeRequest* request,
                                                   v1::DetokenizeResponse* response) {
  for (int i = 0; i < request->token_ids_size(); ++i) {
    const int32_t id = request->token_ids(i);
    if (id < 0 || id >= tokenizer_.vocab_size()) {
      return Answer(context,
                    ToStatus(InvalidArgument("token_ids[" + std::to_string(i) + "]",
                                             "must be in [0, " + std::to_string(tokenizer_.vocab_size()) +
                                                 "), got " + std::to_string(id))));
    }
  }
  for (const int32_t id : request->token_ids()) response->add_pieces(tokenizer_.Piece(id));
  response->set_text(
      tokenizer_.Decode({request->token_ids().data(), static_cast<size_t>(request->token_ids_size())}));
  return Answer(context, grpc::Status::OK);
}

}  // namespace espalier
