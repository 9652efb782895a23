#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>

#include "engine/engine.h"
#include "espalier/v1/model.grpc.pb.h"
#include "model/tokenizer/tokenizer.h"
#include "server/config.h"
#include "server/intake.h"

namespace espalier {

// espalier.v1.ModelService. What it is given outlives it.
class ModelService final
    : public v1::ModelService::WithRawCallbackMethod_GetModel<
          v1::ModelService::WithRawCallbackMethod_Tokenize<
              v1::ModelService::WithRawCallbackMethod_Detokenize<v1::ModelService::Service>>> {
 public:
  ModelService(const Engine& engine, const Tokenizer& tokenizer, const ServerConfig& config,
               const MethodContext& methods)
      : engine_(engine), tokenizer_(tokenizer), config_(config), methods_(methods) {}

  // What GetModel says of it; before the service is served.
  void SetAdminAddress(std::string address) { admin_address_ = std::move(address); }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  v1::GetModelResponse Describe() const;
  Result<v1::TokenizeResponse> Encode(const v1::TokenizeRequest& request) const;
  Result<v1::DetokenizeResponse> Decode(const v1::DetokenizeRequest& request) const;
  Status CheckPieces(const google::protobuf::RepeatedField<int32_t>& ids, const std::string& field) const;
  const std::string& PieceOf(int32_t id) const;

  const Engine& engine_;
  const Tokenizer& tokenizer_;
  const ServerConfig& config_;
  const MethodContext methods_;
  std::string admin_address_;
};

}  // namespace espalier
