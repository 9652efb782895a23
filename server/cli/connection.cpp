#include "server/cli/connection.h"

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

namespace espalier::cli {
namespace {

constexpr int kMaxMessageBytes = 256 << 20;

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
  if (unreachable) {
    std::fprintf(
        stderr,
        "No server answers at %s. Start one with `espalier-server --model DIR --listen %s`, or name another "
        "with --server.\n",
        server.c_str(), server.c_str());
  }
  return unreachable ? kExitUnreachable : kExitFailed;
}

struct CancelOnSignal::State {
  sigset_t signals{};
  sigset_t previous{};
  std::jthread watcher;
};

CancelOnSignal::CancelOnSignal(grpc::ClientContext& context) : state_(std::make_unique<State>()) {
  sigemptyset(&state_->signals);
  sigaddset(&state_->signals, SIGINT);
  sigaddset(&state_->signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &state_->signals, &state_->previous);
  state_->watcher = std::jthread([&context, signals = state_->signals](const std::stop_token& stop) {
    constexpr timespec kInterval{0, 50'000'000};
    while (!stop.stop_requested()) {
      if (sigtimedwait(&signals, nullptr, &kInterval) > 0) context.TryCancel();
    }
  });
}

CancelOnSignal::~CancelOnSignal() {
  state_->watcher = {};  // stops and joins
  pthread_sigmask(SIG_SETMASK, &state_->previous, nullptr);
}

}  // namespace espalier::cli
