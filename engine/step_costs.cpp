#include "engine/step_costs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/result.h"

namespace espalier {

StepLoad LoadOf(const StepInput& step) {
  StepLoad load{step.batch.rows(), 0};
  for (const int32_t position : step.batch.row_position) load.visible_tokens += position + 1;
  return load;
}

// Two classes for each doubling.
int32_t StepCosts::ClassOf(int64_t amount) {
  return static_cast<int32_t>(std::floor(2.0 * std::log2(static_cast<double>(std::max<int64_t>(amount, 1)))));
}

void StepCosts::Add(const StepLoad& load, double us) {
  constexpr double kWeight = 1.0 / 8;  // of the newest
  const int32_t row_class = ClassOf(load.rows);
  const int32_t visible_class = ClassOf(load.visible_tokens);
  const auto rows = static_cast<double>(load.rows);
  const auto visible_tokens = static_cast<double>(load.visible_tokens);
  for (Cell& cell : cells_) {
    if (cell.row_class != row_class || cell.visible_class != visible_class) continue;
    cell.rows += (rows - cell.rows) * kWeight;
    cell.visible_tokens += (visible_tokens - cell.visible_tokens) * kWeight;
    cell.us += (us - cell.us) * kWeight;
    return;
  }
  cells_.push_back({row_class, visible_class, rows, visible_tokens, us});
}

double StepCosts::Scaled(const Cell& cell, const StepLoad& load) {
  const double more_rows = static_cast<double>(load.rows) / std::max(cell.rows, 1.0);
  const double more_visible = static_cast<double>(load.visible_tokens) / std::max(cell.visible_tokens, 1.0);
  return cell.us * std::max({1.0, more_rows, more_visible});
}

double StepCosts::Estimate(const StepLoad& load) const {
  ESPALIER_CHECK(!empty());
  const int32_t row_class = ClassOf(load.rows);
  const int32_t visible_class = ClassOf(load.visible_tokens);
  double min = std::numeric_limits<double>::infinity();
  for (const Cell& cell : cells_) {
    const double scaled = Scaled(cell, load);
    if (cell.row_class == row_class && cell.visible_class == visible_class) return scaled;
    min = std::min(min, scaled);
  }
  return min;
}

}  // namespace espalier
