#include "server/cli/connection.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

namespace espalier::cli {
namespace {

constexpr int kMaxMessageBytes = 256 << 20;

std::mutex call_mutex;
grpc::ClientContext* call_under_way = nullptr;  // under call_mutex

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

// The server's messages read "field: why" where a field is at fault; a field holds no spaces.
size_t LengthOfField(const std::string& message) {
  const size_t colon = message.find(": ");
  if (colon == std::string::npos) return 0;
  const auto is_field_char = [](unsigned char c) {
    return std::islower(c) != 0 || std::isdigit(c) != 0 || c == '_' || c == '.' || c == '[' || c == ']';
  };
  return std::all_of(message.begin(), message.begin() + static_cast<std::ptrdiff_t>(colon), is_field_char)
             ? colon
             : 0;
}

}  // namespace

std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

int Report(const grpc::Status& status, const std::string& server, bool as_json) {
  if (status.ok()) return kExitDone;
  const std::string message = status.error_message();
  if (as_json) {
    const size_t field = LengthOfField(message);
    const nlohmann::ordered_json line = {{"event", "error"},
                                         {"code", NameOf(status.error_code())},
                                         {"field", message.substr(0, field)},
                                         {"message", field == 0 ? message : message.substr(field + 2)}};
    std::printf("%s\n", line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
    std::fflush(stdout);
  }
  const bool unreachable = status.error_code() == grpc::StatusCode::UNAVAILABLE;
  std::fprintf(stderr, "error: %s: %s\n", NameOf(status.error_code()), message.c_str());
  if (message.rfind("failed to connect", 0) == 0 || message.rfind("DNS resolution failed", 0) == 0) {
    std::fprintf(
        stderr,
        "No server answers at %s. Start one with `espalier-server --model DIR --listen %s`, or name another "
        "with --server.\n",
        server.c_str(), server.c_str());
  }
  return unreachable ? kExitUnreachable : kExitFailed;
}

void WatchSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    constexpr int kExitInterrupted = 130;
    while (true) {
      int signal = 0;
      sigwait(&signals, &signal);
      const std::lock_guard lock(call_mutex);
      if (call_under_way == nullptr) _exit(kExitInterrupted);
      call_under_way->TryCancel();
      call_under_way = nullptr;  // a second signal does not wait for the server
    }
  }).detach();
}

CancelOnSignal::CancelOnSignal(grpc::ClientContext& context) {
  const std::lock_guard lock(call_mutex);
  call_under_way = &context;
}

CancelOnSignal::~CancelOnSignal() {
  const std::lock_guard lock(call_mutex);
  call_under_way = nullptr;
}

}  // namespace espalier::cli
