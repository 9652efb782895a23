#include "tests/bench/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace espalier::bench {

namespace {

constexpr const char* kSchema = "espalier-bench/1";

std::string Fixed(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string Cell(const Json& row, const Column& column) {
  const Json& value = row.at(Json::json_pointer("/" + column.field));
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "-";
  return Fixed(value.get<double>() / column.unit, column.decimals);
}

// Right-aligned columns, two spaces between them.
std::string Align(const std::vector<std::vector<std::string>>& lines) {
  std::vector<size_t> widths;
  for (const auto& line : lines) {
    widths.resize(std::max(widths.size(), line.size()));
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string text;
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i)
      text += std::string(widths[i] - line[i].size() + (i == 0 ? 0 : 2), ' ') + line[i];
    text += '\n';
  }
  return text;
}

// The fields of a row that are no lists, objects opened, as (path, text).
using Fields = std::vector<std::pair<std::string, std::string>>;
void AppendFields(const Json& object, const std::string& prefix, Fields* fields) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      AppendFields(value, prefix + key + "/", fields);
    } else if (value.is_string()) {
      fields->emplace_back(prefix + key, value.get<std::string>());
    } else if (!value.is_array()) {
      fields->emplace_back(prefix + key, value.is_null() ? "" : value.dump());
    }
  }
}

std::string Quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

std::string CsvLine(const std::vector<std::string>& cells) {
  std::string line;
  for (const std::string& cell : cells) line += (&cell == cells.data() ? "" : ",") + Quoted(cell);
  return line + '\n';
}

}  // namespace

double RoundUs(double us) { return std::round(us * 1000.0) / 1000.0; }

Json MakeRow(const CommonFields& fields) {
  const auto integer = [](double value) { return static_cast<int64_t>(std::llround(value)); };
  Json row;
  row["workload"] = fields.workload;
  row["backend"] = fields.backend;
  row["mode"] = Name(fields.mode);
  row["dtype"] = Name(fields.shape.kv_dtype);
  row["query_heads"] = fields.shape.query_heads;
  row["kv_heads"] = fields.shape.kv_heads;
  row["head_dim"] = fields.shape.head_dim;
  row["kv_read_bytes"] = integer(fields.kv_read_bytes);
  row["kv_read_bytes_sequence"] = integer(fields.kv_read_bytes_sequence);
  row["partial_bytes"] = integer(fields.partial_bytes);
  row["mask_bytes"] = integer(fields.mask_bytes);
  row["flop"] = integer(fields.flop);
  row["roofline_us"] = RoundUs(fields.roofline_us);
  row["roofline_ratio"] = fields.measured_us > 0.0 ? fields.roofline_us / fields.measured_us : 0.0;
  row["plan_us"] = RoundUs(fields.plan_us);
  return row;
}

Json CostsJson(const PlanCosts& costs) {
  return {{"token", costs.token}, {"partial", costs.partial}, {"item", costs.item}};
}

std::string ToJson(const Report& report) {
  Json root;
  root["schema"] = kSchema;
  root["commit"] = BuildCommit();
  root["command"] = report.command;
  root["machine"] = {{"cpu", CpuName()},
                     {"isa", report.backend.isa},
                     {"threads", report.backend.threads},
                     {"device", report.backend.device},
                     {"load_average", report.load_average}};
  root["peak"] = {{"read_bytes_per_s", report.peak.read_bytes_per_s},
                  {"bf16_flop_per_s", report.peak.bf16_flop_per_s},
                  {"int8_op_per_s", report.peak.int8_op_per_s}};
  root["rows"] = report.rows;
  return root.dump() + "\n";
}

std::string ToCsv(const Report& report) {
  std::vector<Fields> rows;
  std::vector<std::string> header;  // a field of any row, where it first comes
  for (const Json& row : report.rows) {
    AppendFields(row, "", &rows.emplace_back());
    for (const auto& [path, text] : rows.back()) {
      if (std::find(header.begin(), header.end(), path) == header.end()) header.push_back(path);
    }
  }
  std::string csv = CsvLine(header);
  for (const Fields& row : rows) {
    std::vector<std::string> cells(header.size());
    for (const auto& [path, text] : row) {
      cells[static_cast<size_t>(std::find(header.begin(), header.end(), path) - header.begin())] = text;
    }
    csv += CsvLine(cells);
  }
  return csv;
}

std::string ToTable(const Report& report) {
  std::string text = "machine  " + CpuName() + ", " + report.backend.isa + ", " +
                     std::to_string(report.backend.threads) + " threads, backend " + report.backend.name +
                     "\n";
  if (report.peak.read_bytes_per_s > 0.0) {
    text += "peak     reads " + Fixed(report.peak.read_bytes_per_s * 1e-9, 1) + " GB/s, bf16 GEMM " +
            Fixed(report.peak.bf16_flop_per_s * 1e-9, 0) + " GFLOP/s";
    if (report.peak.int8_op_per_s > 0.0)
      text += ", int8 GEMM " + Fixed(report.peak.int8_op_per_s * 1e-9, 0) + " GOP/s";
    text += "\n";
  }
  text += "commit   " + std::string(BuildCommit()) + "\n" + report.title + "\n\n";

  std::vector<std::vector<std::string>> lines(1);
  for (const Column& column : report.columns) lines[0].push_back(column.title);
  for (const Json& row : report.rows) {
    std::vector<std::string>& line = lines.emplace_back();
    for (const Column& column : report.columns) line.push_back(Cell(row, column));
  }
  return text + Align(lines);
}

}  // namespace espalier::bench
