#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/plan/attention_plan.h"
#include "tests/bench/machine.h"

namespace espalier::bench {

using Json = nlohmann::ordered_json;

// What every row of every command has; bytes, operations and times as the command's own header defines them.
struct CommonFields {
  std::string workload;
  std::string backend;
  AttentionMode mode = AttentionMode::kFlatten;
  AttentionShape shape;
  double kv_read_bytes = 0.0;
  double kv_read_bytes_sequence = 0.0;
  double partial_bytes = 0.0;
  double mask_bytes = 0.0;
  double flop = 0.0;
  double roofline_us = 0.0;
  double measured_us = 0.0;
  double plan_us = 0.0;
};

// {"token": ..., "partial": ..., "item": ...}: what the planner used.
Json CostsJson(const PlanCosts& costs);

// An object with the common fields, to which a command adds its own. Bytes and operations become integers.
Json MakeRow(const CommonFields& fields);

// Rounded to three decimals: what a clock of microseconds can show.
double RoundUs(double us);

// A column of the table: a field of the rows ("step_us/median" reads a field of an object) divided by `unit`.
struct Column {
  std::string title;
  std::string field;
  double unit = 1.0;
  int decimals = 0;
};

// The outcome of one command.
struct Report {
  std::string command;  // the command line
  BackendInfo backend;
  Peak peak;                    // 0: not measured
  double load_average = 0.0;    // of the machine when the command began
  std::string title;            // what was run, in a line
  std::vector<Column> columns;  // of the table
  std::vector<Json> rows;
  std::vector<std::string>
      failures;  // what the run found wrong: printed after the report, and the program fails
};

// One line: {schema, commit, command, machine, peak, rows}.
std::string ToJson(const Report& report);

// A header, then a line a row, for spreadsheets: every field of the JSON rows that is no list, in its units;
// those of an object by their path ("time_us/median"). RFC 4180, but for lines that end in a line feed alone.
std::string ToCsv(const Report& report);

// For people: machine, peak and a table of the report's columns.
std::string ToTable(const Report& report);

}  // namespace espalier::bench
