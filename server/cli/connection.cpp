#include "server/cli/connection.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "kernels/base/mutex.h"
#include "server/address.h"
#include "server/console/terminal.h"
#include "server/console/text.h"

namespace espalier::cli {
namespace {

constexpr int kMaxMessageBytes = 256 << 20;
constexpr int kConnectTimeoutMs = 10'000;
constexpr int kSilenceMs = 10'000;

Mutex signal_mutex;
std::function<void()> on_signal ESPALIER_GUARDED_BY(signal_mutex);
int signal_received ESPALIER_GUARDED_BY(signal_mutex) = 0;

const char* NameOf(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "OK";
    case grpc::StatusCode::CANCELLED:
      return "CANCELLED";
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case grpc::StatusCode::ALREADY_EXISTS:
      return "ALREADY_EXISTS";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    case grpc::StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::ABORTED:
      return "ABORTED";
    case grpc::StatusCode::OUT_OF_RANGE:
      return "OUT_OF_RANGE";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "UNIMPLEMENTED";
    case grpc::StatusCode::INTERNAL:
      return "INTERNAL";
    case grpc::StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    case grpc::StatusCode::DATA_LOSS:
      return "DATA_LOSS";
    default:
      return "UNKNOWN";
  }
}

// What a reader does about it.
std::string AdviceOn(const grpc::Status& status) {
  const std::string& message = status.error_message();
  const auto mentions = [&](const char* words) { return message.find(words) != std::string::npos; };
  switch (status.error_code()) {
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      if (mentions("larger than max")) return "Ask for fewer branches or tokens in one request.";
      return mentions("queue") ? "Try again in a moment; `espalier stats --watch` shows what the server does."
                               : "`espalier stats` shows what the KV cache holds, `espalier model` its size.";
    case grpc::StatusCode::INVALID_ARGUMENT:
      return mentions("longest path") || mentions("max_path") || mentions("vocab")
                 ? "`espalier model` shows the model's limits."
                 : "";
    case grpc::StatusCode::UNIMPLEMENTED:
      return message.empty()
                 ? "This may be another server, an older one, or an address of AdminService alone."
                 : "";
    default:
      return "";
  }
}

// gRPC's text on why there is no connection, without its wrapping.
std::string WhyUnreachable(const std::string& message) {
  for (const char* reason : {"Connection refused", "No route to host", "Network is unreachable",
                             "Connection reset", "Domain name not found", "timed out", "Socket closed"}) {
    if (message.find(reason) != std::string::npos) return reason;
  }
  if (message.find("Failed parsing HTTP/2") != std::string::npos)
    return "what listens there is no gRPC server";
  return message;
}

void ReportUnreachable(const std::string& message, const std::string& server, Service service) {
  if (service == Service::kAdmin) {
    std::fprintf(
        stderr,
        "error: no AdminService answers at %s (%s)\n"
        "`espalier-server --admin-listen HOST:PORT` puts it there; --admin HOST:PORT or the environment "
        "variable ESPALIER_ADMIN name another place.\n",
        server.c_str(), Printable(WhyUnreachable(message)).c_str());
    return;
  }
  std::fprintf(stderr, "error: no server answers at %s (%s)\n", server.c_str(),
               Printable(WhyUnreachable(message)).c_str());
  const std::optional<Address> address = ParseAddress(server);
  const bool is_here = address && IsLocal(*address);
  if (is_here) {
    std::fprintf(stderr, "Start one:        espalier-server --model model/demo --listen %s\n",
                 server.c_str());
  }
  std::fprintf(stderr, "%s  --server HOST:PORT, or the environment variable ESPALIER_SERVER\n",
               is_here ? "or name another:" : "Name another:");
}

}  // namespace

std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // A server that has stopped without closing its connections: one that says nothing after it was connected
  // to, and one that falls silent in a call.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kSilenceMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kSilenceMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

std::string FieldOf(const std::string& message) {
  const size_t colon = message.find(": ");
  if (colon == std::string::npos) return "";
  // A field holds no spaces.
  const auto is_field_char = [](unsigned char c) {
    return std::islower(c) != 0 || std::isdigit(c) != 0 || c == '_' || c == '.' || c == '[' || c == ']';
  };
  const auto end = message.begin() + static_cast<std::ptrdiff_t>(colon);
  return std::all_of(message.begin(), end, is_field_char) ? message.substr(0, colon) : "";
}

int Report(const grpc::Status& status, const std::string& server, bool as_json, Service service) {
  if (status.ok()) return kExitDone;
  const std::string message = status.error_message();
  const char* const code = NameOf(status.error_code());
  if (as_json) {
    const std::string field = FieldOf(message);
    const nlohmann::ordered_json line = {
        {"event", "error"},
        {"code", code},
        {"field", field},
        {"message", field.empty() ? message : message.substr(field.size() + 2)}};
    std::printf("%s\n", line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
    std::fflush(stdout);
  }
  if (const int signal = SignalReceived(); signal != 0) {
    std::fprintf(stderr, "interrupted: the request was cancelled on the server\n");
    return kExitSignal + signal;
  }
  if (message.rfind("failed to connect", 0) == 0 || message.rfind("DNS resolution failed", 0) == 0) {
    ReportUnreachable(message, server, service);
    return kExitUnreachable;
  }
  if (message == "keepalive watchdog timeout") {
    std::fprintf(stderr,
                 "error: the server at %s has not answered for %d s: it has stopped, or cannot be reached\n",
                 server.c_str(), 2 * kSilenceMs / 1000);
    return kExitUnreachable;
  }
  const bool broken = message == "Socket closed" || message.find("Connection reset") != std::string::npos;
  std::fprintf(stderr, "error: %s: %s%s\n", code,
               broken ? ("the connection to " + server + " broke off: ").c_str() : "",
               Printable(message).c_str());
  if (const std::string advice = AdviceOn(status); !advice.empty()) {
    std::fprintf(stderr, "%s\n", advice.c_str());
  }
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ? kExitUnreachable : kExitFailed;
}

void WatchSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGTSTP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    while (true) {
      int signal = 0;
      sigwait(&signals, &signal);
      if (signal == SIGTSTP) {
        Screen::Leave();
        kill(getpid(), SIGSTOP);
        Screen::Return();
        continue;
      }
      const MutexLock lock(signal_mutex);
      signal_received = signal;
      if (on_signal == nullptr) {
        Screen::Leave();
        _exit(kExitSignal + signal);
      }
      std::exchange(on_signal, nullptr)();  // a second signal does not wait for the server
    }
  }).detach();
}

int SignalReceived() {
  const MutexLock lock(signal_mutex);
  return signal_received;
}

OnSignal::OnSignal(std::function<void()> end) {
  const MutexLock lock(signal_mutex);
  on_signal = std::move(end);
}

OnSignal::~OnSignal() {
  const MutexLock lock(signal_mutex);
  on_signal = nullptr;
}

}  // namespace espalier::cli
