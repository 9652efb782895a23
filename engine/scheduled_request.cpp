#include "engine/scheduled_request.h"

namespace espalier {

bool ScheduledRequest::Wants(const Sequence& sequence) const {
  if (sequence.tail_pending) return !sequence.dead() && sequence.finished();
  if (sequence.work == SequenceWork::kRead) return !sequence.read_done;
  if (sequence.work != SequenceWork::kDecode || sequence.finished()) return false;
  if (sequence.awaits_result && sequence.sampled > sequence.size()) return false;
  return sequence.sampled < tree.SampleLimit(*sequence.answer);
}

}  // namespace espalier
