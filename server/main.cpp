#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <string>
#include <thread>

#include "server/config.h"
#include "server/server.h"
#include "server/version.h"

namespace espalier {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;  // wrong usage, configuration or model

std::atomic<bool> listening = false;

// gRPC's own lines in the server's log. What hinders it from listening is reported without its help.
void LogFromGrpc(gpr_log_func_args* line) {
  const auto level = !listening                                 ? spdlog::level::debug
                     : line->severity == GPR_LOG_SEVERITY_ERROR ? spdlog::level::err
                     : line->severity == GPR_LOG_SEVERITY_INFO  ? spdlog::level::info
                                                                : spdlog::level::debug;
  spdlog::log(level, "grpc: {}", line->message);
}

void StartLogging(const std::string& level) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("espalier"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  spdlog::set_level(spdlog::level::from_str(level));
  gpr_set_log_function(LogFromGrpc);
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
  google::protobuf::SetLogHandler(nullptr);
}

std::string Mebibytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

void LogModel(const ModelInfo& model, const ServerConfig& config) {
  const AttentionShape& shape = model.attention;
  spdlog::info("device    {}: {}, {}, {} threads", model.backend.name, model.backend.device,
               model.backend.isa, model.backend.threads);
  if (!model.backend.fallback.empty()) spdlog::info("no GPU    {}", model.backend.fallback);
  spdlog::info("model     {}: {:.2f} M parameters, {}, {} layers, {}/{} heads of {}, {} tokens", model.name,
               static_cast<double>(model.parameters) * 1e-6, Name(model.backend.dtype), shape.layers,
               shape.query_heads, shape.kv_heads, shape.head_dim, model.vocab_size);
  spdlog::info("weights   {}, {} read a step", Name(model.backend.weights, model.backend.dtype),
               Mebibytes(model.weight_bytes));
  const int64_t block_bytes = shape.KvBytesPerTokenLayer() * shape.layers * model.block_tokens;
  spdlog::info("KV cache  {} blocks of {} tokens, {}, paths of up to {} tokens, attention mode {}",
               model.kv_blocks, model.block_tokens, Mebibytes(block_bytes * model.kv_blocks),
               model.max_positions, Name(config.attention_mode));
}

int Complain(Error error, const ServerCommand& command) {
  if (const auto place = command.places.find(error.field); place != command.places.end()) {
    error.field = place->second;  // the line of the file, not a flag that nobody gave
  }
  std::fprintf(stderr, "error: %s\n", error.ToString().c_str());
  return kExitUsage;
}

int Check(const ServerCommand& command) {
  ServerConfig unserved = command.config;
  unserved.listen = "127.0.0.1:0";  // a server may run at the configured address
  unserved.port_file.clear();
  if (const auto server = Server::Start(unserved); !server) return Complain(server.error(), command);
  std::printf("%s\n", ToJson(command.config).c_str());
  return 0;
}

// SIGTERM and SIGINT. The first ends the program at once while there is nothing to drain, and drains what is
// served; who asks twice does not want to wait for the trees that are left.
class StopSignals {
 public:
  // Before any other thread starts: those started later leave the signals to this one.
  StopSignals() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::thread([this, signals] { Watch(signals); }).detach();
  }

  // From now on the first signal is for Wait.
  void Serving() { serving_ = true; }
  int Wait() { return first_.get_future().get(); }

 private:
  [[noreturn]] void Watch(const sigset_t& signals) {
    int signal = 0;
    sigwait(&signals, &signal);
    if (!serving_) {
      spdlog::warn("stopped before serving");
      std::_Exit(kExitFailed);
    }
    first_.set_value(signal);
    sigwait(&signals, &signal);
    spdlog::warn("a second signal: stopped at once");
    std::_Exit(kExitFailed);
  }

  std::atomic<bool> serving_ = false;
  std::promise<int> first_;
};

int Run(const ServerCommand& command, StopSignals& stop_signals) {
  const ServerConfig& config = command.config;
  auto server = Server::Start(config, [&] { stop_signals.Serving(); });
  if (!server) return Complain(server.error(), command);
  listening = true;
  LogModel((*server)->engine().model(), config);
  spdlog::info("listening at {} (port {})", config.listen, (*server)->port());
  const int signal = stop_signals.Wait();
  spdlog::info("{}: draining for up to {} ms", signal == SIGTERM ? "SIGTERM" : "SIGINT",
               config.drain_timeout_ms);
  (*server)->Drain();
  const EngineStats stats = (*server)->engine().Stats();
  spdlog::info("stopped after {} steps, {} requests finished, {} cancelled, {} blocks still live",
               stats.steps, stats.finished, stats.cancelled, stats.blocks_live);
  return 0;
}

int Main(int argc, char** argv) {
  const ServerCommand command = ParseServerCommand(argc, argv);
  if (command.show_help) {
    std::fputs(command.help.c_str(), stdout);
    return 0;
  }
  if (!command.completion.empty()) {
    std::fputs(command.completion.c_str(), stdout);
    return 0;
  }
  if (command.show_version) {
    std::printf("espalier-server %s\n", kVersion);
    return 0;
  }
  if (!command.problems.empty()) {
    for (const std::string& problem : command.problems) std::fprintf(stderr, "error: %s\n", problem.c_str());
    return kExitUsage;
  }
  StartLogging(command.config.log_level);
  static auto& stop_signals = *new StopSignals;  // never destroyed: its thread outlives main
  return command.check_config ? Check(command) : Run(command, stop_signals);
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) { return espalier::Main(argc, argv); }
