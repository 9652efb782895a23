#pragma once

#include <cstdint>
#include <vector>

#include "kernels/step_input.h"

namespace espalier {

// What a step has to do: rows, and the KV tokens that they see (each token once for each row that sees it).
struct StepLoad {
  int64_t rows = 0;
  int64_t visible_tokens = 0;

  StepLoad& operator+=(const StepLoad& more) {
    rows += more.rows;
    visible_tokens += more.visible_tokens;
    return *this;
  }
  friend StepLoad operator+(StepLoad a, const StepLoad& b) { return a += b; }
  bool operator==(const StepLoad&) const = default;

  // Consecutive rows, the first of them at `position`.
  static StepLoad Of(int64_t rows, int64_t position) {
    return {rows, rows * (position + 1) + rows * (rows - 1) / 2};
  }
};

// Of a step as it is issued.
StepLoad LoadOf(const StepInput& step);

// A table of how long steps take, rows x visible tokens -> microseconds, filled by measurement. Knows nothing
// of why. Not thread-safe.
class StepCosts {
 public:
  // A step of this load took so long. Recent steps count most.
  void Add(const StepLoad& load, double us);

  bool empty() const { return cells_.empty(); }
  // How long a step of this load will take. Where nothing like it has been measured: at most so long, if time
  // grows no faster than rows and visible tokens do. Precondition: not empty.
  double Estimate(const StepLoad& load) const;

 private:
  // Loads of about the same size: each measure within a factor of the square root of 2.
  struct Cell {
    int32_t row_class = 0;
    int32_t visible_class = 0;
    double rows = 0.0;  // recent means
    double visible_tokens = 0.0;
    double us = 0.0;
  };
  static int32_t ClassOf(int64_t amount);
  static double Scaled(const Cell& cell, const StepLoad& load);

  std::vector<Cell> cells_;  // a few dozen
};

}  // namespace espalier
