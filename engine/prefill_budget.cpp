#include "engine/prefill_budget.h"

#include <algorithm>
#include <cmath>

namespace espalier {

PrefillBudget::PrefillBudget(int32_t rows, const StepCosts* costs, const StepLoad& base, double added_us)
    : units_(std::max(rows, 0)),
      costs_(costs != nullptr && !costs->empty() && added_us > 0.0 ? costs : nullptr),
      load_(base),
      added_us_(added_us),
      units_left_(units_) {}

int32_t PrefillBudget::CostOf(int32_t position, int32_t rows) const {
  if (costs_ == nullptr) return rows;
  const double us = costs_->Estimate(load_ + StepLoad::Of(rows, position)) - costs_->Estimate(load_);
  const double units = std::ceil(us / added_us_ * units_);
  return std::max(rows, static_cast<int32_t>(std::min(units, 1e9)));
}

// Costs grow with the number of rows.
int32_t PrefillBudget::RowsFor(int32_t units, int32_t position) const {
  if (costs_ == nullptr) return std::max(units, 0);
  int32_t fit = 0;
  int32_t beyond = units + 1;
  while (beyond - fit > 1) {
    const int32_t middle = fit + (beyond - fit) / 2;
    (CostOf(position, middle) <= units ? fit : beyond) = middle;
  }
  return fit;
}

int32_t PrefillBudget::Charge(int32_t position, int32_t rows) {
  const int32_t cost = CostOf(position, rows);
  load_ += StepLoad::Of(rows, position);
  units_left_ -= cost;
  return cost;
}

}  // namespace espalier
