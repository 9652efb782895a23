#pragma once

#include <grpcpp/grpcpp.h>

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
};

}  // namespace espalier
