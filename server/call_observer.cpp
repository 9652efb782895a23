#include "server/call_observer.h"

#include <string>

namespace espalier {
namespace {

// One for each call; lives as long as its context.
class CallObserver final : public grpc::experimental::Interceptor {
 public:
  CallObserver(Acceptor& acceptor, const std::string& peer)
      : acceptor_(acceptor), connection_(acceptor.CallStarted(peer)) {}
  ~CallObserver() override { acceptor_.CallEnded(connection_); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override { methods->Proceed(); }

 private:
  Acceptor& acceptor_;
  const uint64_t connection_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(Acceptor& acceptor) : acceptor_(acceptor) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new CallObserver(acceptor_, info->server_context()->peer());
  }

 private:
  Acceptor& acceptor_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallObserver(Acceptor& acceptor) {
  return std::make_unique<Factory>(acceptor);
}

}  // namespace espalier
