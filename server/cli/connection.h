#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

namespace espalier::cli {

// Exit codes of the client. A signal adds its number to kExitSignal.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitUnreachable = 3;
inline constexpr int kExitSignal = 128;

// A channel to HOST:PORT; connects when first used.
std::shared_ptr<grpc::Channel> Connect(const std::string& server);

// What answers at an address: the services that most commands call, or AdminService.
enum class Service : uint8_t { kTrees, kAdmin };

// "error: what the server said", with advice where there is some, on standard error; as JSON on standard
// output too if asked for. After a signal it says that the call was cancelled. Returns the exit code.
int Report(const grpc::Status& status, const std::string& server, bool as_json,
           Service service = Service::kTrees);

// The field that a message of the server names ("nodes[3].given.text: holds no token"); empty: none.
std::string FieldOf(const std::string& message);

// From now on Ctrl-C and SIGTERM end what OnSignal names, or the program where there is nothing or when they
// come again; Ctrl-Z gives the screen back first. Call first of all: threads started earlier would still die
// of them.
void WatchSignals();

// The signal that ended something, or 0.
int SignalReceived();

// While it lives, `end` is called once when a signal comes, on another thread. One at a time.
class OnSignal {
 public:
  explicit OnSignal(std::function<void()> end);
  ~OnSignal();
  OnSignal(const OnSignal&) = delete;
  OnSignal& operator=(const OnSignal&) = delete;
};

// While it lives, its call is cancelled by a signal, so that the server lets go of it at once.
class CancelOnSignal {
 public:
  explicit CancelOnSignal(grpc::ClientContext& context) : on_signal_([&context] { context.TryCancel(); }) {}

 private:
  OnSignal on_signal_;
};

}  // namespace espalier::cli
