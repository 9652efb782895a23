#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "server/acceptor.h"

namespace espalier {

// Reports to the acceptor which connections have calls under way. Calls share it: gRPC may end the last of
// them in a thread of its own after Server::Wait has returned.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallObserver(
    std::shared_ptr<Acceptor> acceptor);

}  // namespace espalier
