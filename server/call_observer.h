#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "server/acceptor.h"

namespace espalier {

// Has the acceptor know which connections have calls under way. The acceptor outlives every call.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallObserver(Acceptor& acceptor);

}  // namespace espalier
