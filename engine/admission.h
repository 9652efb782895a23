#pragma once

#include <cstdint>

#include "engine/event_log.h"
#include "engine/memory_pressure.h"
#include "engine/tail_nodes.h"
#include "engine/tree_updater.h"
#include "engine/turns.h"

namespace espalier {

// Which waiting requests begin. Not thread-safe.
class Admission {
 public:
  // All outlive this.
  Admission(const SchedulingPolicy& policy, RequestTable* requests, TailNodes* tails,
            MemoryPressure* pressure, Turns* turns, TreeUpdater* updater, EventLog* events)
      : policy_(policy),
        requests_(*requests),
        tails_(*tails),
        pressure_(*pressure),
        turns_(*turns),
        updater_(*updater),
        events_(*events) {}

  // Admits peer by peer: those first whose peer has the fewest that run, then by precedence; and none
  // overtakes one that waits for blocks, but to take what its peer may claim. Those that find no rows to
  // spare are begun all the same, up to a number and while a part of the pool is left: first tokens come with
  // the prompt's rows, which have to be run in any case; what follows waits for its turn. A preempted request
  // waits until the blocks that it had are there again. The first of all is always admitted: it can always
  // run.
  void AdmitRequests();

 private:
  bool HasRoomFor(const ScheduledRequest& request, bool ahead) const;
  void Admit(ScheduledRequest* request);

  const SchedulingPolicy& policy_;
  RequestTable& requests_;
  TailNodes& tails_;
  MemoryPressure& pressure_;
  Turns& turns_;
  TreeUpdater& updater_;
  EventLog& events_;
};

}  // namespace espalier
