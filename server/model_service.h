#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>

#include "engine/engine.h"
#include "espalier/v1/model.grpc.pb.h"
#include "model/tokenizer/tokenizer.h"
#include "server/config.h"

namespace espalier {

// espalier.v1.ModelService. The engine, the tokenizer and the configuration outlive it.
class ModelService final
    : public v1::ModelService::WithRawCallbackMethod_Tokenize<v1::ModelService::WithCallbackMethod_GetModel<
          v1::ModelService::WithCallbackMethod_Detokenize<v1::ModelService::Service>>> {
 public:
  ModelService(const Engine& engine, const Tokenizer& tokenizer, const ServerConfig& config)
      : engine_(engine), tokenizer_(tokenizer), config_(config) {}

  // What GetModel says of it; before the service is served.
  void SetAdminAddress(std::string address) { admin_address_ = std::move(address); }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  const Engine& engine_;
  const Tokenizer& tokenizer_;
  const ServerConfig& config_;
  std::string admin_address_;
};

}  // namespace espalier
