#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/base/mutex.h"
#include "server/connection_table.h"
#include "server/listening_socket.h"

namespace espalier {

struct AcceptorOptions {
  int max_connections = 1024;
  std::chrono::milliseconds handshake_timeout{10'000};  // for the first bytes of a connection
  std::chrono::milliseconds unsent_timeout{20'000};     // for sent bytes to be acknowledged; 0: the system's
};

// Accepts connections in place of gRPC, which in 1.51 stops for good when accept() fails once. A thread of
// its own accepts, waits for the first bytes (HTTP/2's preface) and hands the connection on; one that says
// nothing or something else costs gRPC nothing and is closed. Where the process or the machine is out of
// files or memory, connections are refused until there are some again. Thread-safe.
class Acceptor {
 public:
  // Takes the descriptor of a connection whose first bytes have come. Called by the acceptor's thread.
  using Serve = std::function<void(int file)>;

  Acceptor(std::vector<ListeningSocket> sockets, const AcceptorOptions& options);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  int port() const { return sockets_.empty() ? 0 : sockets_.front().port(); }  // 0 for a unix socket

  bool is_unix() const { return !sockets_.empty() && sockets_.front().is_unix(); }

  // Until then connections wait. Call once.
  void Start(Serve serve);

  // Stops listening and closes the connections that have not been handed on. Serve is not called any more.
  void Stop();

  // Calls show which connections are in use. `grpc_peer`: what the call's context gives. CallEnded takes what
  // CallStarted has returned.
  uint64_t CallStarted(const std::string& grpc_peer);
  void CallEnded(uint64_t connection);

 private:
  using Clock = std::chrono::steady_clock;
  using Time = Clock::time_point;

  void Run();
  int WaitMs() const;
  void Accept(const ListeningSocket& listening);
  // What to do after accept() has failed: false if there is nothing to accept for now.
  bool Survive(int error, const ListeningSocket& listening);
  void Admit(int file, const sockaddr_storage& address, bool is_unix);
  bool MakeRoom(const std::string& share) ESPALIER_REQUIRES(mutex_);
  void LookAt(uint64_t id);
  void CloseSilent();
  void Drop(uint64_t id) ESPALIER_REQUIRES(mutex_);
  void ForgetEnded() ESPALIER_REQUIRES(mutex_);
  void SetListening(bool on);
  void Report(const std::string& trouble);

  std::vector<ListeningSocket> sockets_;
  const AcceptorOptions options_;
  Serve serve_;
  int epoll_ = -1;
  int wake_ = -1;     // an eventfd: Stop() was called
  int reserve_ = -1;  // given up for a moment to refuse a connection when there are no descriptors left
  std::atomic<bool> stopping_ = false;

  Mutex mutex_;
  ConnectionTable table_ ESPALIER_GUARDED_BY(mutex_);

  // Of the thread.
  std::deque<std::pair<Time, uint64_t>> silent_until_;  // when a connection that says nothing is closed
  bool listening_ = true;
  Time listen_again_{};  // where not listening_
  Time last_look_{};     // of ForgetEnded
  Time last_report_{};
  int unreported_ = 0;

  std::jthread thread_;  // last: it runs when everything else is there
};

}  // namespace espalier
