#pragma once

#include <cstdint>
#include <memory>
#include <variant>

#include "espalier/v1/model.grpc.pb.h"
#include "espalier/v1/tree.grpc.pb.h"
#include "kernels/base/result.h"
#include "tests/bench/serve_options.h"

namespace espalier::bench {

using LoadRequest = std::variant<v1::GenerateRequest, v1::ScoreRequest>;

// Makes the requests of a workload. Pure: equal arguments give equal requests. All workloads draw from the
// same few few-shot prompts; the last line of each request is its own.
class WorkloadSource {
 public:
  virtual ~WorkloadSource() = default;

  // `number`: of the request in its run; `run_seed`: of the run.
  virtual LoadRequest Make(Workload workload, uint64_t run_seed, uint64_t number) const = 0;

  // Asks the server to encode texts where the prompts are texts. Errors name the flag whose value the model
  // cannot take: prompt-tokens, branches.
  static Result<std::unique_ptr<WorkloadSource>> Create(const TreeShapeOptions& options,
                                                        const v1::GetModelResponse& model,
                                                        v1::ModelService::Stub* service);
};

}  // namespace espalier::bench
