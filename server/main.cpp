#include <spdlog/spdlog.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <string>
#include <thread>

#include "kernels/base/exhaustion.h"
#include "server/config.h"
#include "server/console/text.h"
#include "server/log.h"
#include "server/process.h"
#include "server/server.h"
#include "server/version.h"

namespace espalier {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;  // wrong usage, configuration or model

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
  for (const std::string& note : model.notes) spdlog::warn("model     {}", note);
  const int64_t block_bytes = shape.KvBytesPerTokenLayer() * shape.layers * model.block_tokens;
  spdlog::info("KV cache  {} blocks of {} tokens, {}, paths of up to {} tokens, attention mode {}",
               model.kv_blocks, model.block_tokens, Mebibytes(block_bytes * model.kv_blocks),
               model.max_positions, Name(config.attention_mode));
}

int Complain(Error error, const ServerCommand& command) {
  if (const auto place = command.places.find(error.field); place != command.places.end()) {
    error.field = place->second;  // the line of the file, not a flag that was not given
  }
  FlushLog();
  WriteToStandardError("error: " + cli::Escaped(error.ToString()) + "\n");
  return kExitUsage;
}

using Started = Result<std::unique_ptr<Server>>;

Started Start(const ServerConfig& config, const std::function<void()>& loaded = nullptr) {
  NowDoing("loading the model", /*starts=*/true);
  return OrExhausted("", "starting", [&]() -> Started {
    return Server::Start(config, [&] {
      NowDoing("starting to listen", /*starts=*/true);
      if (loaded) loaded();
    });
  });
}

// What could not be written, to a full disk for instance, must not look like success.
int Print(const std::string& text) {
  if (std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0) return 0;
  WriteToStandardError("error: standard output: cannot be written\n");
  return kExitFailed;
}

int Check(const ServerCommand& command) {
  ServerConfig unserved = command.config;
  unserved.listen = "127.0.0.1:0";  // a server may run at the configured address
  unserved.port_file.clear();
  unserved.admin_listen.clear();
  unserved.admin_port_file.clear();
  if (const auto server = Start(unserved); !server) return Complain(server.error(), command);
  return Print(ToJson(command.config) + "\n");
}

// SIGTERM and SIGINT. The first ends the program at once while there is nothing to drain, and drains what is
// served; a second one ends it without waiting for the trees that are left.
class StopSignals {
 public:
  // Before any other thread starts: those started later leave the signals to Watch.
  StopSignals() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGTERM);
    sigaddset(&signals_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  }

  // Reacts to them from now on. Throws std::system_error where the system gives no thread.
  void Watch() {
    std::thread([this] { Run(); }).detach();
  }

  // From now on the first signal is for Wait.
  void Serving() { serving_ = true; }
  int Wait() { return first_.get_future().get(); }

 private:
  [[noreturn]] void Run() {
    int signal = 0;
    sigwait(&signals_, &signal);
    if (!serving_) EndAtOnce("stopped before serving");
    first_.set_value(signal);
    sigwait(&signals_, &signal);
    EndAtOnce("a second signal: stopped at once");
  }

  [[noreturn]] static void EndAtOnce(const char* why) {
    spdlog::warn(why);
    FlushLog();
    std::_Exit(kExitFailed);
  }

  sigset_t signals_{};
  std::atomic<bool> serving_ = false;
  std::promise<int> first_;
};

int Run(const ServerCommand& command, StopSignals& stop_signals) {
  const ServerConfig& config = command.config;
  auto server = Start(config, [&] { stop_signals.Serving(); });
  if (!server) return Complain(server.error(), command);
  NowDoing("serving", /*starts=*/false);
  LogLinesOfGrpc();
  LogModel((*server)->engine().model(), config);
  spdlog::info("listening at {}", (*server)->address());
  if (const std::string& admin = (*server)->admin_address(); !admin.empty()) {
    spdlog::info("admin     listening at {}", admin);
  }
  const int signal = stop_signals.Wait();
  spdlog::info("{}: draining for up to {} ms", signal == SIGTERM ? "SIGTERM" : "SIGINT",
               config.drain_timeout_ms);
  NowDoing("draining", /*starts=*/false);
  (*server)->Drain();
  const EngineStats stats = (*server)->engine().Stats();
  spdlog::info("stopped after {} steps, {} requests finished, {} cancelled, {} blocks still live",
               stats.steps, stats.finished, stats.cancelled, stats.blocks_live);
  return 0;
}

int Main(int argc, char** argv) {
  const ServerCommand command = ParseServerCommand(argc, argv);
  if (command.show_help) return Print(command.help);
  if (!command.completion.empty()) return Print(command.completion);
  if (command.show_version) return Print(std::string("espalier-server ") + kVersion + "\n");
  if (!command.problems.empty()) {
    for (const std::string& problem : command.problems) {
      WriteToStandardError("error: " + cli::PrintableLines(problem) + "\n");
    }
    return kExitUsage;
  }
  static auto& stop_signals = *new StopSignals;  // never destroyed: its thread outlives main
  const Status started =
      OrExhausted("", "starting the threads of log and signals (ulimit -v, ulimit -u)", [&]() -> Status {
        StartLogging(command.config.log_level);
        stop_signals.Watch();
        return {};
      });
  if (!started) return Complain(started.error(), command);
  const int code = command.check_config ? Check(command) : Run(command, stop_signals);
  FlushLog();
  return code;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) {
  espalier::PrepareProcess(argv);
  return espalier::Main(argc, argv);
}
