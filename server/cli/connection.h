#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

namespace espalier::cli {

// Exit codes of the client.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitUnreachable = 3;

// A channel to HOST:PORT; connects when first used.
std::shared_ptr<grpc::Channel> Connect(const std::string& server);

// "error: what the server said", with advice where there is some, on standard error; as JSON on standard
// output too if asked for. Returns the exit code.
int Report(const grpc::Status& status, const std::string& server, bool as_json);

// From now on Ctrl-C and SIGTERM cancel the call under way, so that the server lets go of it at once, or end
// the program where there is none or when they come again. Call first of all: threads started earlier would
// still die of them.
void WatchSignals();

// While it lives, its call is the one that a signal cancels. One at a time.
class CancelOnSignal {
 public:
  explicit CancelOnSignal(grpc::ClientContext& context);
  ~CancelOnSignal();
  CancelOnSignal(const CancelOnSignal&) = delete;
  CancelOnSignal& operator=(const CancelOnSignal&) = delete;
};

}  // namespace espalier::cli
