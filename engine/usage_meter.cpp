#include "engine/usage_meter.h"

#include <cmath>

namespace espalier {

void UsageMeter::AddCached(ScheduledRequest* request, int32_t tokens) {
  request->usage.usage_.cached_tokens += tokens;
  totals_.cached_tokens += tokens;
}

void UsageMeter::AddComputed(ScheduledRequest* request, int32_t tokens) {
  request->usage.usage_.computed_tokens += tokens;
  totals_.computed_tokens += tokens;
}

void UsageMeter::AddGenerated(ScheduledRequest* request) {
  ++request->usage.usage_.generated_tokens;
  ++totals_.generated_tokens;
}

void UsageMeter::AddReads(const StepRecord& record) {
  totals_.kv_read_bytes += record.accounting.kv_read_bytes;
  totals_.kv_read_bytes_sequence += record.accounting.kv_read_bytes_sequence;
}

void UsageMeter::AddReads(ScheduledRequest* request, const StepRecord& record,
                          const StepRecord::Share& share) {
  MeteredUsage& metered = request->usage;
  const double part = static_cast<double>(share.weight) / static_cast<double>(record.total_weight);
  metered.kv_read_bytes_ += part * static_cast<double>(record.accounting.kv_read_bytes);
  metered.kv_read_bytes_sequence_ += part * static_cast<double>(record.accounting.kv_read_bytes_sequence);
  if (metered.counted_step_ != record.step_id) ++metered.usage_.steps;
  metered.counted_step_ = record.step_id;
}

TreeUsage UsageMeter::Of(const ScheduledRequest& request) const {
  TreeUsage usage = request.usage.usage_;
  usage.distinct_tokens = request.tree.distinct_tokens();
  usage.kv_read_bytes = std::llround(request.usage.kv_read_bytes_);
  usage.kv_read_bytes_sequence = std::llround(request.usage.kv_read_bytes_sequence_);
  return usage;
}

}  // namespace espalier
