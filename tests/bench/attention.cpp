#include "tests/bench/attention.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <utility>

#include "tests/bench/attention_rig.h"
#include "tests/bench/plan_time.h"
#include "tests/bench/progress.h"
#include "tests/bench/statistics.h"
#include "tests/bench/time_list.h"

namespace espalier::bench {

namespace {

constexpr int32_t kMaxLayers = 64;
constexpr int32_t kTimedPlans = 5;

// Tokens that some row of the batch sees, each once.
int64_t VisibleTokens(const TreeBatch& batch) {
  int64_t tokens = batch.rows();
  for (const BatchNode& node : batch.nodes) tokens += node.cached_tokens;
  return tokens;
}

// Every step of a workload in one mode.
struct ModeRun {
  AttentionMode mode = AttentionMode::kFlatten;
  std::vector<AttentionPlan> plans;  // [steps]
  PlanAccounting accounting;         // sums over the steps
  double plan_us = 0.0;              // median of the steps, of each the median of kTimedPlans calls
  std::vector<double> step_us;       // [repeats] mean over the steps
  std::optional<double> error;
};

class WorkloadBench {
 public:
  WorkloadBench(const AttentionOptions& options, const AttentionWorkload& workload, const Peak& peak)
      : options_(options), workload_(workload), peak_(peak), shape_(options.shape) {
    shape_.layers = 1;
    for (const TreeShape& step : workload.steps) {
      batches_.push_back(MakeBatch(step, options.block_tokens));
      blocks_ = std::max(blocks_, static_cast<int32_t>(batches_.back().blocks.size()));
    }
    if (options.scatter_blocks) ScatterBlocks();
  }

  Result<std::vector<Json>> Run() {
    if (Status status = MakeRig(); !status) return status.error();
    for (const AttentionMode mode : options_.modes) runs_.push_back(Plan(mode));
    // Scratch memory grows and caches fill before anything is measured.
    for (ModeRun& run : runs_) {
      if (Status status = RunSteps(&run); !status) return status.error();
      run.step_us.clear();
    }
    for (int32_t repeat = 0; repeat < options_.repeats; ++repeat) {
      for (ModeRun& run : runs_) {
        if (Status status = RunSteps(&run); !status) return status.error();
      }
    }
    std::vector<Json> rows;
    for (const ModeRun& run : runs_) rows.push_back(Row(run));
    return rows;
  }

 private:
  // The same block elsewhere, the same place in every step.
  void ScatterBlocks() {
    std::vector<int32_t> place(static_cast<size_t>(blocks_));
    std::iota(place.begin(), place.end(), 0);
    std::shuffle(place.begin(), place.end(), std::mt19937(1));
    for (TreeBatch& batch : batches_) {
      for (int32_t& block : batch.blocks) block = place[static_cast<size_t>(block)];
    }
  }

  Status MakeRig() {
    AttentionShape pool = shape_;
    const int64_t layer_bytes = int64_t{blocks_} * options_.block_tokens * shape_.KvBytesPerTokenLayer();
    pool.layers =
        options_.layers > 0
            ? options_.layers
            : static_cast<int32_t>(std::clamp<int64_t>(options_.cold_bytes / layer_bytes, 1, kMaxLayers));
    const auto available = AvailableMemoryBytes();
    if (options_.backend.name != "cuda" && available && layer_bytes * pool.layers > *available)
      return InvalidArgument("layers", workload_.name + ": the KV does not fit into memory");
    auto rig = AttentionRig::Create(options_.backend, pool, blocks_, options_.block_tokens);
    if (!rig) return rig.error();
    rig_ = std::move(*rig);
    return {};
  }

  ModeRun Plan(AttentionMode mode) const {
    PlanOptions plan_options = rig_->info().plan;
    plan_options.mode = mode;
    if (options_.processors > 0) plan_options.processors = options_.processors;
    ModeRun run;
    run.mode = mode;
    std::vector<double> plan_us;
    for (const TreeBatch& batch : batches_) {
      std::vector<double> us;
      AttentionPlan plan;
      TimePlan(batch, shape_, plan_options, &plan);  // brings memory into the cache
      for (int32_t call = 0; call < kTimedPlans; ++call)
        us.push_back(TimePlan(batch, shape_, plan_options, &plan));
      plan_us.push_back(Median(us));
      run.plans.push_back(std::move(plan));
      const PlanAccounting& step = run.plans.back().accounting;
      run.accounting.kv_read_bytes += step.kv_read_bytes;
      run.accounting.kv_read_bytes_sequence += step.kv_read_bytes_sequence;
      run.accounting.partial_bytes += step.partial_bytes;
      run.accounting.mask_bytes += step.mask_bytes;
      run.accounting.flop += step.flop;
    }
    run.plan_us = Median(plan_us);
    return run;
  }

  Status RunSteps(ModeRun* run) {
    double us = 0.0;
    for (size_t i = 0; i < batches_.size(); ++i) {
      if (Status status = rig_->Prepare(batches_[i]); !status) return status;
      const auto step_us = rig_->Attend(batches_[i], run->plans[i]);
      if (!step_us) return step_us.error();
      us += *step_us;
    }
    run->step_us.push_back(us / static_cast<double>(batches_.size()));
    if (!run->error && options_.checked_rows > 0)
      run->error = rig_->LargestError(batches_.back(), options_.checked_rows);
    return {};
  }

  // Means over the steps: what memory and what GEMM needs at least, and the longer of the two.
  struct Roofline {
    double us = 0.0;
    double memory_us = 0.0;
    double gemm_us = 0.0;
  };
  Roofline RooflineOfStep() const {
    const double token_bytes = static_cast<double>(shape_.KvBytesPerTokenLayer());
    const double row_bytes = static_cast<double>(shape_.query_heads) * shape_.head_dim *
                             static_cast<double>(sizeof(float) + SizeOf(shape_.kv_dtype));
    const bool bf16 = shape_.kv_dtype == DType::kBFloat16;
    Roofline mean;
    for (size_t i = 0; i < batches_.size(); ++i) {
      const double bytes =
          static_cast<double>(VisibleTokens(batches_[i])) * token_bytes + batches_[i].rows() * row_bytes;
      const auto flop = static_cast<double>(runs_.front().plans[i].accounting.flop);
      mean.us += RooflineUs(peak_, bf16, bytes, flop) / steps();
      mean.memory_us += RooflineUs(peak_, bf16, bytes, 0.0) / steps();
      mean.gemm_us += RooflineUs(peak_, bf16, 0.0, flop) / steps();
    }
    return mean;
  }

  // Median time of `mode` over that of `run`; null where it did not run.
  Json SpeedupOver(AttentionMode mode, const ModeRun& run) const {
    for (const ModeRun& other : runs_) {
      if (other.mode == mode) return Median(other.step_us) / Median(run.step_us);
    }
    return nullptr;
  }

  double steps() const { return static_cast<double>(batches_.size()); }

  Json Row(const ModeRun& run) const {
    const double time_us = Median(run.step_us);
    CommonFields common;
    common.workload = workload_.name;
    common.backend = rig_->info().name;
    common.mode = run.mode;
    common.shape = shape_;
    common.kv_read_bytes = static_cast<double>(run.accounting.kv_read_bytes) / steps();
    common.kv_read_bytes_sequence = static_cast<double>(run.accounting.kv_read_bytes_sequence) / steps();
    common.partial_bytes = static_cast<double>(run.accounting.partial_bytes) / steps();
    common.mask_bytes = static_cast<double>(run.accounting.mask_bytes) / steps();
    common.flop = static_cast<double>(run.accounting.flop) / steps();
    const Roofline roofline = RooflineOfStep();
    common.roofline_us = roofline.us;
    common.measured_us = time_us;
    common.plan_us = run.plan_us;
    Json row = MakeRow(common);
    double query_rows = 0.0;
    double kv_tokens = 0.0;
    for (const TreeBatch& batch : batches_) {
      query_rows += batch.rows();
      kv_tokens += static_cast<double>(VisibleTokens(batch));
    }
    row["query_rows"] = query_rows / steps();
    row["kv_tokens"] = kv_tokens / steps();
    row["time_us"] = {{"median", RoundUs(time_us)},
                      {"min", RoundUs(*std::min_element(run.step_us.begin(), run.step_us.end()))},
                      {"max", RoundUs(*std::max_element(run.step_us.begin(), run.step_us.end()))},
                      {"runs", run.step_us.size()}};
    row["roofline_memory_us"] = RoundUs(roofline.memory_us);
    row["roofline_products_us"] = RoundUs(roofline.gemm_us);
    row["plan_costs"] = CostsJson(rig_->info().plan.costs);
    row["limit"] = roofline.memory_us >= roofline.gemm_us ? "memory" : "products";
    const double bytes_per_s = common.kv_read_bytes / (time_us * 1e-6);
    row["achieved_bytes_per_s"] = bytes_per_s;
    row["bandwidth_ratio"] = bytes_per_s / peak_.read_bytes_per_s;
    row["speedup_over_sequence"] = SpeedupOver(AttentionMode::kSequence, run);
    row["speedup_over_masked"] = SpeedupOver(AttentionMode::kMasked, run);
    row["max_error_over_ref"] = run.error ? Json(*run.error) : Json(nullptr);
    row["steps"] = batches_.size();
    row["trees"] = workload_.trees;
    row["skipped_trees"] = workload_.skipped_trees;
    return row;
  }

  const AttentionOptions& options_;
  const AttentionWorkload& workload_;
  const Peak peak_;
  AttentionShape shape_;  // of one layer: what bytes and operations are counted for
  std::vector<TreeBatch> batches_;
  int32_t blocks_ = 0;
  std::unique_ptr<AttentionRig> rig_;
  std::vector<ModeRun> runs_;
};

std::vector<Column> Columns() {
  return {{"workload", "workload"},
          {"mode", "mode"},
          {"rows", "query_rows"},
          {"KV tokens", "kv_tokens"},
          {"us", "time_us/median", 1.0, 1},
          {"min", "time_us/min", 1.0, 1},
          {"max", "time_us/max", 1.0, 1},
          {"x sequence", "speedup_over_sequence", 1.0, 2},
          {"x masked", "speedup_over_masked", 1.0, 2},
          {"KV MB", "kv_read_bytes", 1e6, 2},
          {"of sequence", "kv_read_bytes_sequence", 1e6, 2},
          {"GB/s", "achieved_bytes_per_s", 1e9, 1},
          {"of peak %", "bandwidth_ratio", 0.01, 1},
          {"memory us", "roofline_memory_us", 1.0, 1},
          {"GEMM us", "roofline_products_us", 1.0, 1},
          {"limit", "limit"},
          {"of roofline %", "roofline_ratio", 0.01, 1},
          {"plan us", "plan_us", 1.0, 1},
          {"error", "max_error_over_ref", 1.0, 6}};
}

// The pointer to a field whose name is the user's.
std::string FieldOf(const std::string& object, const std::string& name) {
  return (Json::json_pointer("/" + object) / name).to_string().substr(1);
}

// Times of kernels that ran elsewhere, [workload].
Result<std::map<std::string, PeerTimes>> PeersOf(const AttentionOptions& options) {
  std::map<std::string, PeerTimes> times;
  bool found = options.peers.empty();
  for (const AttentionWorkload& workload : options.workloads) {
    times[workload.name] = TimesOf(options.peers, workload, options.shape);
    found = found || !times[workload.name].empty();
  }
  if (!found) return InvalidArgument("peer-times", "no time is about these workloads, heads and types");
  return times;
}

// Sets them next to ours, in every row and as columns.
void AddPeers(const std::map<std::string, PeerTimes>& times, Report* report) {
  std::set<std::string> names;
  for (const auto& [workload, peers] : times) {
    for (const auto& [name, time_us] : peers) names.insert(name);
  }
  for (Json& row : report->rows) {
    const PeerTimes& peers = times.at(row["workload"]);
    for (const std::string& name : names) {
      const auto found = peers.find(name);
      const bool known = found != peers.end();
      row["peer_us"][name] = known ? Json(RoundUs(found->second)) : Json(nullptr);
      row["speedup_over_peers"][name] =
          known ? Json(found->second / row["time_us"]["median"].get<double>()) : Json(nullptr);
    }
  }
  for (const std::string& name : names) {
    report->columns.push_back({name + " us", FieldOf("peer_us", name), 1.0, 1});
    report->columns.push_back({"x " + name, FieldOf("speedup_over_peers", name), 1.0, 2});
  }
}

std::string Title(const AttentionOptions& options) {
  char text[160];
  std::snprintf(
      text, sizeof text, "work     one layer of %d/%d heads of %d, %s, blocks of %d tokens%s, %d repeats",
      options.shape.query_heads, options.shape.kv_heads, options.shape.head_dim, Name(options.shape.kv_dtype),
      options.block_tokens, options.scatter_blocks ? ", scattered" : "", options.repeats);
  return text;
}

}  // namespace

Result<Report> RunAttention(const AttentionOptions& options) {
  const auto peers = PeersOf(options);
  if (!peers) return peers.error();
  const Progress progress;
  Report report;
  report.load_average = LoadAverage();
  if (report.load_average > kQuietLoad)
    progress.Say("warning: the machine has not been idle; where other programs run, figures are too low");
  {
    const auto backend = CreateBackend(options.backend);
    if (!backend) return backend.error();
    report.backend = (*backend)->info();
  }
  progress.Say("measuring the machine");
  const Result<Peak> peak =
      options.backend.name == "cuda"
          ? Result<Peak>(Peak{options.peak_gb_per_s * 1e9, options.peak_tflop_per_s * 1e12})
          : MeasurePeak(options.backend.isa, report.backend.threads, options.peak_buffer_bytes);
  if (!peak) return peak.error();
  report.peak = *peak;
  for (const AttentionWorkload& workload : options.workloads) {
    progress.Say(workload.name);
    WorkloadBench bench(options, workload, *peak);
    auto rows = bench.Run();
    if (!rows) return rows.error();
    report.rows.insert(report.rows.end(), rows->begin(), rows->end());
  }
  report.title = Title(options);
  report.columns = Columns();
  AddPeers(*peers, &report);
  return report;
}

}  // namespace espalier::bench
