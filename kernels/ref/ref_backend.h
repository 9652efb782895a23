#pragma once

#include <memory>

#include "kernels/backend.h"

namespace espalier::ref {

// The oracle of every test: naive fp32 on one thread. Weights are widened when they are added, KV is kept in
// fp32, and attention walks each row's own path; the step's plan is not looked at.
Result<std::unique_ptr<Backend>> CreateRefBackend(const BackendOptions& options);

}  // namespace espalier::ref
