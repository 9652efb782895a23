#include "tests/bench/serve.h"

#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>
#include <utility>

#include "espalier/v1/admin.grpc.pb.h"
#include "espalier/v1/model.grpc.pb.h"
#include "server/admin_address.h"
#include "tests/bench/machine.h"
#include "tests/bench/progress.h"
#include "tests/bench/serve_call.h"
#include "tests/bench/serve_load.h"
#include "tests/bench/serve_workload.h"
#include "tests/bench/statistics.h"

namespace espalier::bench {

namespace {

constexpr int kMaxMessageBytes = 256 << 20;
constexpr int kConnectSeconds = 10;
constexpr int kIdleSeconds = 10;  // until a server without requests must have released everything

using Stats = v1::GetStatsResponse;

std::vector<std::shared_ptr<grpc::Channel>> Connect(const std::string& server, int32_t count) {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int32_t i = 0; i < count; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    channels.push_back(grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments));
  }
  return channels;
}

double ProcessorSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Json Quantiles(const std::vector<double>& values) {
  const auto at = [&](double quantile) { return values.empty() ? 0.0 : RoundUs(Quantile(values, quantile)); };
  return {{"p50", at(0.5)}, {"p90", at(0.9)}, {"p99", at(0.99)}};
}

double Ratio(double part, double whole) { return whole > 0.0 ? part / whole : 0.0; }

class ServeBench {
 public:
  explicit ServeBench(const ServeOptions& options)
      : options_(options), channels_(Connect(options.server, options.channels)) {
    models_ = v1::ModelService::NewStub(channels_.front());
  }

  Status Open() {
    const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(kConnectSeconds);
    auto model = Ask<v1::GetModelResponse>([&](grpc::ClientContext* context, v1::GetModelResponse* response) {
      return models_->GetModel(context, {}, response);
    });
    if (!model) return Unreachable(model.error());
    model_ = std::move(*model);
    std::string admin = options_.admin;
    if (admin.empty()) {
      auto address = AdminAddressFor(options_.server, model_.admin_address());
      if (!address) return Error{address.error().code, "admin", address.error().message};
      admin = std::move(*address);
    }
    admin_ = v1::AdminService::NewStub(Connect(admin, 1).front());
    for (const auto& channel : channels_) {
      if (!channel->WaitForConnected(deadline))
        return Unreachable({ErrorCode::kUnavailable, "server", "not every connection was made"});
    }
    auto source = WorkloadSource::Create(options_.shape, model_, models_.get());
    if (!source) return source.error();
    source_ = std::move(*source);
    return {};
  }

  // One run, and its row.
  Result<Json> Run(const LoadPlan& plan, std::vector<std::string>* failures) {
    if (options_.flush_cache) {
      if (Status status = Flush(); !status.ok()) return status.error();
    }
    const auto before = WaitUntilIdle();
    if (!before) return before.error();
    if (before->requests_active() > 0)
      return Error{ErrorCode::kFailedPrecondition, "server", "it is serving requests of others"};
    const double server_before = ProcessCpuSeconds(options_.server_pid).value_or(0.0);
    const double cpu_before = ProcessorSeconds();
    LoadOutcome outcome = RunLoad(plan, *source_, channels_);
    const double client_cpu_s = ProcessorSeconds() - cpu_before;
    const double server_cpu_s = ProcessCpuSeconds(options_.server_pid).value_or(0.0) - server_before;
    const auto after = WaitUntilIdle();
    if (!after) return after.error();
    CheckServer(*before, *after, &outcome);
    AddFailures(plan, outcome, failures);
    Json row = Row(plan, outcome, *before, *after);
    row["client_cpu_s"] = client_cpu_s;
    row["server_cpu_s"] = server_cpu_s;
    row["output_tokens_per_cpu_s"] = Ratio(static_cast<double>(outcome.output_tokens), server_cpu_s);
    return row;
  }

  const v1::GetModelResponse& model() const { return model_; }

 private:
  Error Unreachable(Error error) const {
    error.message = "no answer from " + options_.server + ": " + error.message;
    return error;
  }

  Status Flush() {
    auto flushed =
        Ask<v1::FlushCacheResponse>([&](grpc::ClientContext* context, v1::FlushCacheResponse* response) {
          return admin_->FlushCache(context, {}, response);
        });
    return flushed ? Status() : Status(flushed.error());
  }

  // The server's counters, once nothing runs there, or as they are after ten seconds.
  Result<Stats> WaitUntilIdle() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kIdleSeconds);
    while (true) {
      auto stats = Ask<Stats>([&](grpc::ClientContext* context, Stats* response) {
        return admin_->GetStats(context, {}, response);
      });
      const bool idle = stats && stats->requests_active() == 0 && stats->blocks_live() == 0;
      if (!stats || idle || std::chrono::steady_clock::now() > deadline) return stats;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  // What the server counted is what came back, and nothing is left behind.
  static void CheckServer(const Stats& before, const Stats& after, LoadOutcome* outcome) {
    const auto check = [&](const char* what, int64_t got, int64_t expected) {
      if (got == expected) return;
      ++outcome->fault_count;
      outcome->faults.push_back(std::string("the server counts ") + what + ": " + std::to_string(got) +
                                " instead of " + std::to_string(expected));
    };
    check("requests still active", after.requests_active(), 0);
    check("branches still active", after.branches_active(), 0);
    check("blocks still live", after.blocks_live(), 0);
    check("blocks of all kinds",
          after.blocks_free() + after.blocks_indexed() + after.blocks_live() + after.blocks_scratch(),
          after.blocks_total());
    check("finished requests", after.finished() - before.finished(), outcome->requests_done);
    if (after.cancelled() == before.cancelled()) {
      check("generated tokens", after.generated_tokens() - before.generated_tokens(),
            outcome->generated_tokens);
    }
  }

  static void AddFailures(const LoadPlan& plan, const LoadOutcome& outcome,
                          std::vector<std::string>* failures) {
    const std::string run = std::string(Name(plan.workload)) +
                            (plan.clients ? ", " + std::to_string(*plan.clients) + " clients" : "") +
                            (plan.rate > 0.0 ? ", open loop" : "");
    for (const std::string& fault : outcome.faults) failures->push_back(run + ": " + fault);
    for (const auto& [code, count] : outcome.errors) {
      if (code != "RESOURCE_EXHAUSTED")
        failures->push_back(run + ": " + std::to_string(count) + " requests ended with " + code);
    }
  }

  Json Row(const LoadPlan& plan, const LoadOutcome& outcome, const Stats& before, const Stats& after) const {
    const auto change = [&](auto field) { return static_cast<double>((after.*field)() - (before.*field)()); };
    const double steps = change(&Stats::steps);
    const double seconds = outcome.duration_s;
    const auto share = [&](auto field) { return Ratio(change(field) * 1e-6, seconds); };
    CommonFields common;
    common.workload = Name(plan.workload);
    common.backend = model_.backend();
    common.mode = ParseAttentionMode(model_.attention_mode()).value_or(AttentionMode::kFlatten);
    common.shape.kv_dtype = model_.dtype() == Name(DType::kFloat32) ? DType::kFloat32 : DType::kBFloat16;
    common.shape.query_heads = model_.query_heads();
    common.shape.kv_heads = model_.kv_heads();
    common.shape.head_dim = model_.head_dim();
    common.kv_read_bytes = Ratio(change(&Stats::kv_read_bytes), steps);
    common.kv_read_bytes_sequence = Ratio(change(&Stats::kv_read_bytes_sequence), steps);
    common.plan_us = Ratio(change(&Stats::plan_us), steps);
    Json row = MakeRow(common);
    row["loop"] = plan.rate > 0.0 ? "open" : "closed";
    row["clients"] = plan.clients.value_or(0);
    row["rate"] = plan.rate;
    row["duration_s"] = seconds;
    row["requests_sent"] = outcome.requests_sent;
    row["requests_ok"] = outcome.requests_ok;
    row["errors"] = Json::object();
    for (const auto& [code, count] : outcome.errors) row["errors"][code] = count;
    row["refused"] = row["errors"].value("RESOURCE_EXHAUSTED", 0);
    row["faults"] = outcome.fault_count;
    row["requests_per_s"] = Ratio(outcome.requests_ok, seconds);
    row["output_tokens"] = outcome.output_tokens;
    row["output_tokens_per_s"] = Ratio(static_cast<double>(outcome.output_tokens), seconds);
    row["first_token_us"] = Quantiles(outcome.first_token_us);
    row["per_output_token_us"] = Quantiles(outcome.per_output_token_us);
    row["total_us"] = Quantiles(outcome.total_us);
    row["server_first_token_us"] = Quantiles(outcome.server_first_token_us);
    row["most_late_us"] = RoundUs(outcome.most_late_us);
    row["prompt_tokens"] = outcome.prompt_tokens;
    row["cached_tokens"] = outcome.cached_tokens;
    row["prefix_hit_rate"] =
        Ratio(static_cast<double>(outcome.cached_tokens), static_cast<double>(outcome.prompt_tokens));
    row["steps"] = after.steps() - before.steps();
    row["preemptions"] = after.preemptions() - before.preemptions();
    row["evicted_blocks"] = after.evicted_blocks() - before.evicted_blocks();
    row["rows_per_step"] = Ratio(change(&Stats::computed_tokens), steps);
    row["step_us_mean"] = RoundUs(Ratio(change(&Stats::step_us), steps));
    row["step_share"] = share(&Stats::step_us);
    row["plan_share"] = share(&Stats::plan_us);
    row["forward_share"] = share(&Stats::forward_us);
    row["attention_share"] = share(&Stats::attention_us);
    row["deliver_share"] = share(&Stats::deliver_us);
    row["idle_share"] = share(&Stats::idle_us);
    return row;
  }

  const ServeOptions& options_;
  const std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::unique_ptr<v1::ModelService::Stub> models_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
  v1::GetModelResponse model_;
  std::unique_ptr<WorkloadSource> source_;
};

std::vector<Column> Columns() {
  return {{"workload", "workload"},
          {"clients", "clients"},
          {"rate/s", "rate", 1.0, 1},
          {"ok", "requests_ok"},
          {"refused", "refused"},
          {"req/s", "requests_per_s", 1.0, 1},
          {"tokens/s", "output_tokens_per_s"},
          {"first ms", "first_token_us/p50", 1e3, 1},
          {"p99", "first_token_us/p99", 1e3, 1},
          {"token ms", "per_output_token_us/p50", 1e3, 2},
          {"p99", "per_output_token_us/p99", 1e3, 2},
          {"total ms", "total_us/p50", 1e3, 1},
          {"p99", "total_us/p99", 1e3, 1},
          {"cached %", "prefix_hit_rate", 0.01, 1},
          {"rows/step", "rows_per_step", 1.0, 1},
          {"step us", "step_us_mean"},
          {"step %", "step_share", 0.01, 1},
          {"forward %", "forward_share", 0.01, 1},
          {"deliver %", "deliver_share", 0.01, 1},
          {"idle %", "idle_share", 0.01, 1},
          {"tokens/cpu s", "output_tokens_per_cpu_s"},
          {"client cpu s", "client_cpu_s", 1.0, 2}};
}

std::string Title(const ServeOptions& options, const v1::GetModelResponse& model) {
  char text[320];
  std::snprintf(
      text, sizeof text,
      "server   %s, model %s, %.3f M parameters, %s, %d blocks of %d tokens\nwork     few-shot trees of %d "
      "branches, at most %d tokens each; %d connections; percentages: of the engine's thread",
      model.server_version().c_str(), model.name().c_str(), static_cast<double>(model.parameters()) * 1e-6,
      model.dtype().c_str(), model.blocks_total(), model.block_tokens(), options.shape.branches,
      options.shape.new_tokens, options.channels);
  return text;
}

std::vector<LoadPlan> Plans(const ServeOptions& options) {
  std::vector<LoadPlan> plans;
  for (const Workload workload : options.workloads) {
    LoadPlan plan;
    plan.workload = workload;
    plan.requests = options.requests;
    plan.duration_s = options.duration_s;
    plan.deadline_s = options.deadline_s;
    if (!options.clients.empty()) plan.clients = options.clients.front();
    for (const double rate : options.rates) {
      plan.rate = rate;
      plans.push_back(plan);
    }
    if (!options.rates.empty()) continue;
    for (const int32_t clients : options.clients) {
      plan.clients = clients;
      plans.push_back(plan);
    }
  }
  // Every run has requests of its own.
  for (size_t i = 0; i < plans.size(); ++i) plans[i].seed = options.seed * 1000003 + i;
  return plans;
}

}  // namespace

Result<Report> RunServe(const ServeOptions& options) {
  const Progress progress;
  Report report;
  report.load_average = LoadAverage();
  ServeBench bench(options);
  if (Status status = bench.Open(); !status.ok()) return status.error();
  report.backend.name = bench.model().backend();
  report.backend.device = bench.model().device();
  report.backend.isa = bench.model().isa();
  report.backend.threads = bench.model().threads();
  for (const LoadPlan& plan : Plans(options)) {
    auto row = bench.Run(plan, &report.failures);
    if (!row) return row.error();
    char text[160];
    std::snprintf(text, sizeof text, "%s, %d clients, rate %.1f: %d of %d requests in %.1f s, %.0f tokens/s",
                  Name(plan.workload), plan.clients.value_or(0), plan.rate, row->at("requests_ok").get<int>(),
                  row->at("requests_sent").get<int>(), row->at("duration_s").get<double>(),
                  row->at("output_tokens_per_s").get<double>());
    progress.Say(text);
    report.rows.push_back(std::move(*row));
  }
  report.title = Title(options, bench.model());
  report.columns = Columns();
  return report;
}

}  // namespace espalier::bench
