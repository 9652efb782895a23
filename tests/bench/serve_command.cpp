#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>

#include "tests/bench/command.h"
#include "tests/bench/machine.h"
#include "tests/bench/serve.h"
#include "tests/bench/serve_options.h"

namespace espalier::bench {

const char* Name(Workload workload) {
  switch (workload) {
    case Workload::kFewShot:
      return "few-shot";
    case Workload::kMultiStep:
      return "multi-step";
    case Workload::kMixed:
      return "mixed";
  }
  return "";
}

namespace {

constexpr int32_t kDefaultRequests = 200;
constexpr int32_t kMaxClients = 1 << 14;
constexpr double kMaxRate = 1e6;
constexpr double kMaxSeconds = 86400.0;

class ServeCommand final : public Command {
 public:
  explicit ServeCommand(CLI::App* program)
      : Command(program, "serve", "Loads a running server with trees, and checks all that comes back") {
    if (const char* server = std::getenv("ESPALIER_SERVER"); server != nullptr) options_.server = server;
    if (options_.server.empty()) options_.server = "127.0.0.1:50051";
    Add("--server", options_.server, "HOST:PORT of the server; default from ESPALIER_SERVER");
    if (const char* admin = std::getenv("ESPALIER_ADMIN"); admin != nullptr) options_.admin = admin;
    Add("--admin", options_.admin,
        "HOST:PORT of its AdminService; default from ESPALIER_ADMIN, else what the server says");
    Add("--workload", workloads_,
        "few-shot: few long prompts, many answers to each; multi-step: trees that are searched; mixed: both, "
        "single "
        "answers, scores. Several: a run for each");
    Add("--clients", clients_,
        "Closed loop: each client sends its next request when its last has ended. Several: a run for each. "
        "With "
        "--rate: the most requests under way");
    Add("--rate", rates_, "Open loop: Poisson arrivals, requests a second. Several: a run for each");
    Add("--requests", requests_, "Requests of a run; default 200, without bound if --duration is given");
    Add("--duration", options_.duration_s, "Seconds for which a run sends requests; 0: until all are sent");
    Add("--deadline", options_.deadline_s, "Seconds after which a request has failed");
    Add("--channels", options_.channels, "Connections to the server");
    Add("--server-pid", options_.server_pid,
        "Process of a server on this machine, whose processor time is reported; 0: none");
    Add("--seed", options_.seed, "Of requests and arrivals");
    Add("--prompts", options_.shape.prompts,
        "demo: problems as the demo model knows them; tokens: random ones, for any model; auto: by the "
        "model's name");
    Add("--prompt-tokens", options_.shape.prompt_tokens, "Length of a few-shot prompt of random tokens");
    Add("--branches", options_.shape.branches, "Branches of a few-shot tree");
    Add("--new-tokens", options_.shape.new_tokens, "Most tokens of each of them");
    AddFlag("--flush-cache", options_.flush_cache, "Empty the server's prefix cache before each run");
    AddOutputFlags();
  }

  void Read(FlagReader* reader) override {
    ReadLists(reader);
    if (Given("--requests")) {
      reader->CheckRange("requests", requests_, 1, 1 << 30);
      options_.requests = requests_;
    } else if (options_.duration_s <= 0.0) {
      options_.requests = kDefaultRequests;
    }
    CheckSeconds(reader, "duration", options_.duration_s, 0.0);
    CheckSeconds(reader, "deadline", options_.deadline_s, 0.001);
    if (options_.server_pid != 0 && !ProcessCpuSeconds(options_.server_pid))
      reader->Fail("server-pid", "no process " + std::to_string(options_.server_pid) + " on this machine");
    reader->CheckRange("channels", options_.channels, 1, 1024);
    reader->CheckOneOf("prompts", options_.shape.prompts, {"auto", "demo", "tokens"});
    reader->CheckRange("prompt-tokens", options_.shape.prompt_tokens, 1, 1 << 20);
    reader->CheckRange("branches", options_.shape.branches, 1, 1 << 14);
    reader->CheckRange("new-tokens", options_.shape.new_tokens, 1, 1 << 20);
  }

  Result<Report> Run() override { return RunServe(options_); }

 private:
  void ReadLists(FlagReader* reader) {
    for (const std::string& name :
         reader->Names("workload", workloads_, {"few-shot", "multi-step", "mixed"})) {
      for (const Workload workload : {Workload::kFewShot, Workload::kMultiStep, Workload::kMixed}) {
        if (name == Name(workload)) options_.workloads.push_back(workload);
      }
    }
    if (Given("--rate")) options_.rates = reader->Numbers("rate", rates_, 0.001, kMaxRate);
    if (Given("--clients") || !Given("--rate"))
      options_.clients = reader->Integers("clients", clients_, 1, kMaxClients);
    if (Given("--rate") && options_.clients.size() > 1)
      reader->Fail("clients", "with --rate, a single number bounds the requests under way");
  }

  static void CheckSeconds(FlagReader* reader, const char* flag, double value, double low) {
    if (value >= low && value <= kMaxSeconds) return;
    std::ostringstream text;
    text << "must be in [" << low << ", " << kMaxSeconds << "] seconds, got " << value;
    reader->Fail(flag, text.str());
  }

  ServeOptions options_;
  std::string workloads_ = "few-shot";
  std::string clients_ = "8";
  std::string rates_;
  int32_t requests_ = kDefaultRequests;
};

}  // namespace

std::unique_ptr<Command> MakeServeCommand(CLI::App* program) {
  return std::make_unique<ServeCommand>(program);
}

}  // namespace espalier::bench
