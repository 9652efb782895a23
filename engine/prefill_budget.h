#pragma once

#include <cstdint>

#include "engine/step_costs.h"

namespace espalier {

// What prefill may take of one step, in units of which a row costs at least one: more where the step's time,
// not the number of its rows, is what is short. So that one measure serves for sharing both. Not thread-safe.
class PrefillBudget {
 public:
  // `rows`: the most rows, one unit each. `costs`: null or empty where time does not matter; else the rows
  // may make the step `added_us` longer than it is with the load `base`, that of the rows that decode.
  PrefillBudget(int32_t rows, const StepCosts* costs, const StepLoad& base, double added_us);

  bool limits_time() const { return costs_ != nullptr; }
  int32_t units_left() const { return units_left_; }
  // The most rows from `position` on that cost no more than `units` units.
  int32_t RowsFor(int32_t units, int32_t position) const;
  // Those rows are issued. Returns what they cost.
  int32_t Charge(int32_t position, int32_t rows);

 private:
  int32_t CostOf(int32_t position, int32_t rows) const;

  const int32_t units_;
  const StepCosts* costs_;
  StepLoad load_;  // of all that is issued or will have to be
  const double added_us_;
  int32_t units_left_;
};

}  // namespace espalier
