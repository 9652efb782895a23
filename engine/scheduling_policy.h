#pragma once

#include <cstdint>

#include "engine/step_costs.h"

namespace espalier {

// The constants of scheduling: whom to serve first and how far ahead, never what an answer says.
struct SchedulingPolicy {
  // Requests that are admitted in all where steps have no rows to spare: the prompts of those whose turn has
  // not come are run and their first tokens sampled; enough that steps are full whichever of them end.
  int32_t max_begun_requests = 128;
  // Requests that run side by side whatever rows they want, so that small ones do not wait for the end of
  // large ones.
  int32_t min_side_by_side_requests = 32;
  // Steps count as full when requests want this many times the rows of one: some requests prefill while
  // others decode, and some end.
  double full_step_ratio = 1.25;
  // The part of the pool that must be left to those before it where a request is begun ahead of its turn.
  double pool_left_to_earlier = 0.5;
  // Where branches want more rows than a step has, none gets more than one part in this many of them unless
  // that is its equal share: so many trees at least advance in each step.
  int32_t min_trees_per_step = 8;
  // The part of a step's rows that is kept for prefill where decode rows would fill the step, so that neither
  // starves.
  double prefill_reserve = 0.25;
  // The part of the prefill rows that is divided evenly among prompts; the rest goes to the first, which so
  // ends early: equal parts of everything would let all of them end late.
  double even_prefill_part = 0.25;
  // How long steps take, as measured; null: not known. What it points to outlives the scheduler, and may
  // change between its calls. Without it the number of a step's rows alone is limited.
  const StepCosts* step_costs = nullptr;
  // Prefill may make a step this many times as long as it is with its decoding rows alone, so that a long
  // prompt does not hold up those who read.
  double max_step_ratio = 2.0;
  // But steps of this length are good enough for anyone: faster than text is read.
  double free_step_us = 20'000.0;
  // The longest step of prefill alone: so long a new request waits, or a cancelled one lives on.
  double max_prefill_step_us = 250'000.0;
  // Runs of at least this many blocks are promised to others while they are computed; shorter ones are not
  // worth a node more.
  int32_t min_promised_blocks = 4;
  // The first request comes first once it has had no row for so many steps: others might take, step after
  // step, what was given up for it.
  uint64_t starved_after_steps = 4;
  // Candidates and branches that a tree may take up at one time (RequestTree::Expand): a few milliseconds.
  int64_t expand_budget = 4096;
  // How often a step is planned anew where nothing is in flight and planning only made room: what was given
  // up in one attempt is free in the next. After that the request cannot run at all.
  int32_t planning_attempts = 4;
};

}  // namespace espalier
