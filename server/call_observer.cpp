#include "server/call_observer.h"

#include <string>
#include <utility>

namespace espalier {
namespace {

// One for each call; lives as long as its context.
class CallObserver final : public grpc::experimental::Interceptor {
 public:
  CallObserver(std::shared_ptr<Acceptor> acceptor, const std::string& peer)
      : acceptor_(std::move(acceptor)), connection_(acceptor_->CallStarted(peer)) {}
  ~CallObserver() override { acceptor_->CallEnded(connection_); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override { methods->Proceed(); }

 private:
  const std::shared_ptr<Acceptor> acceptor_;
  const uint64_t connection_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(std::shared_ptr<Acceptor> acceptor) : acceptor_(std::move(acceptor)) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new CallObserver(acceptor_, info->server_context()->peer());
  }

 private:
  const std::shared_ptr<Acceptor> acceptor_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallObserver(
    std::shared_ptr<Acceptor> acceptor) {
  return std::make_unique<Factory>(std::move(acceptor));
}

}  // namespace espalier
