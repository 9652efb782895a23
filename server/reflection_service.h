#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>
#include <string>
#include <vector>

namespace espalier {

// grpc.reflection.v1.ServerReflection or v1alpha, over the descriptors of this program. A stream holds no
// thread while its client is silent. `services`: the full names to list.
std::unique_ptr<grpc::Service> MakeReflectionV1(std::vector<std::string> services);
std::unique_ptr<grpc::Service> MakeReflectionV1Alpha(std::vector<std::string> services);

}  // namespace espalier
