#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/step_input.h"

namespace espalier::cpu {

// A step's plan as attention reads it, the same for all layers, heads and instruction sets: what each segment
// reads of each KV block. Memory is kept from step to step.
class StepKvSpans {
 public:
  // `stored_tokens`: of a block, KvLayer::stored_tokens.
  void Build(const TreeBatch& batch, const AttentionPlan& plan, int32_t stored_tokens);

  // One for each of AttentionPlan::segments.
  const std::vector<KvSegment>& segments() const { return segments_; }
  const std::vector<KvBlockSpan>& spans() const { return spans_; }
  int32_t max_segment_spans() const { return max_segment_spans_; }

 private:
  std::vector<KvSegment> segments_;
  std::vector<KvBlockSpan> spans_;
  int32_t max_segment_spans_ = 0;
};

}  // namespace espalier::cpu
