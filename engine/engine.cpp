#include "engine/engine.h"

#include <utility>

#include "engine/engine_thread.h"
#include "kernels/base/exhaustion.h"

namespace espalier {

Result<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                               std::unique_ptr<ModelRunner> runner,
                                               std::shared_ptr<const Tokenizer> tokenizer) {
  const ModelInfo& info = runner->info();
  const auto require_positive = [](int32_t value, const char* field) -> Status {
    if (value > 0) return {};
    return InvalidArgument(field, "must be at least 1");
  };
  for (const Status& status : {require_positive(options.block_tokens, "block_tokens"),
                               require_positive(options.total_blocks, "total_blocks"),
                               require_positive(options.max_branches, "max_branches"),
                               require_positive(options.max_batch_rows, "max_batch_rows"),
                               require_positive(options.prefill_chunk_tokens, "prefill_chunk_tokens"),
                               require_positive(options.max_queued_requests, "max_queued_requests")}) {
    if (!status.ok()) return status.error();
  }
  if (kSegmentTokens % options.block_tokens != 0)
    return InvalidArgument("block_tokens", "must divide " + std::to_string(kSegmentTokens));
  if (options.block_tokens != info.block_tokens || options.total_blocks > info.kv_blocks)
    return InvalidArgument("total_blocks", "the model was loaded with " + std::to_string(info.kv_blocks) +
                                               " blocks of " + std::to_string(info.block_tokens) + " tokens");
  if (info.backend.steps_in_flight < 1)
    return InternalError("a backend must allow at least one step in flight");
  return OrExhausted("kv_cache_bytes", "starting the engine", [&]() -> Result<std::unique_ptr<Engine>> {
    return std::unique_ptr<Engine>(
        std::make_unique<EngineThread>(options, std::move(runner), std::move(tokenizer)));
  });
}

}  // namespace espalier
