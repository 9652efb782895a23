#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <string>
#include <utility>

#include "kernels/base/result.h"

namespace espalier::bench {

// The name of a gRPC code, as in "RESOURCE_EXHAUSTED".
std::string NameOf(grpc::StatusCode code);

// A failed call as an error: kUnavailable where no server answers.
Error ToError(const grpc::Status& status);

// One call whose answer is waited for: at most ten seconds.
template <typename Response, typename Call>
Result<Response> Ask(Call call) {
  constexpr int kSeconds = 10;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(kSeconds));
  Response response;
  const grpc::Status status = call(&context, &response);
  if (!status.ok()) return ToError(status);
  return response;
}

}  // namespace espalier::bench
