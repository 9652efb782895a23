#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/step_input.h"

namespace espalier {

// What the engine needs to know of a loaded model.
struct ModelInfo {
  std::string name;
  int32_t vocab_size = 0;
  int32_t max_positions = 0;           // longest path in tokens
  int32_t kv_blocks = 0;               // size of the KV pool
  int32_t block_tokens = 0;            // KV slots of a block
  std::vector<int32_t> eos_token_ids;  // any of them ends a branch (finish reason stop_token)
  int32_t bos_token_id = -1;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;  // read once a step
  AttentionShape attention;
  BackendInfo backend;
  std::vector<std::string> notes;  // what was passed over in the model's files, a line each, for a log
};

// Runs steps of a model on a backend, in the order of issue. Used by one thread, the engine's.
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual const ModelInfo& info() const = 0;

  // Starts a step. The input stays unchanged until its result has been waited for. At most
  // info().backend.steps_in_flight steps may be issued and not yet waited for.
  virtual void Issue(std::shared_ptr<const StepInput> step) = 0;

  // Blocks for the result of the oldest issued step. An error means that the device is lost: every step in
  // flight and every later one fails.
  virtual Result<StepResult> Wait() = 0;
};

}  // namespace espalier
