#pragma once

#include <cstdint>

#include "engine/memory_pressure.h"
#include "engine/scheduling_policy.h"
#include "engine/tail_nodes.h"
#include "engine/usage_meter.h"

namespace espalier {

// Brings sequences into memory: gives them a tail node that continues their source's, or opens their path by
// its tokens. Not thread-safe.
class SequenceOpener {
 public:
  // All outlive this.
  SequenceOpener(const SchedulingPolicy& policy, TailNodes* tails, MemoryPressure* pressure,
                 UsageMeter* usage)
      : policy_(policy), tails_(*tails), pressure_(*pressure), usage_(*usage) {}

  // Of the request, a step is planned; so many of its sequences with rows to issue are in memory.
  void BeginStep(ScheduledRequest* request, int32_t running);

  // Gives the sequence a tail node. Where nothing else of the request runs, it may take what it needs;
  // otherwise it waits until there is room for it in addition to all that runs. False: not in this step.
  // Precondition: it has none.
  bool Open(ScheduledRequest* request, Sequence* sequence, StepMemory* memory);
  // It has to be opened anew: the tail node that it has does not serve.
  void Close(ScheduledRequest* request, Sequence* sequence);

 private:
  bool OpenIfRoom(ScheduledRequest* request, Sequence* sequence, StepMemory* memory);
  static bool DenyRoom(ScheduledRequest* request);
  Sequence* SourceOf(ScheduledRequest* request, const Sequence& sequence) const;
  bool IsLastOf(const ScheduledRequest& request, const Sequence& sequence, const Sequence& source) const;
  int32_t KeptEnd(const ScheduledRequest& request, const Sequence& sequence, const Sequence& source) const;
  bool Continue(ScheduledRequest* request, Sequence* sequence, Sequence* source, StepMemory* memory);
  bool OpenByTokens(ScheduledRequest* request, Sequence* sequence, bool forced);
  bool CachedBeyond(const ScheduledRequest& request, const Sequence& run, const Sequence& source) const;

  const SchedulingPolicy& policy_;
  TailNodes& tails_;
  MemoryPressure& pressure_;
  UsageMeter& usage_;
};

}  // namespace espalier
