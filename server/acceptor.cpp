#include "server/acceptor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>
#include <system_error>

#include "kernels/base/result.h"

namespace espalier {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";  // RFC 9113, section 3.4
constexpr uint64_t kWake = ~uint64_t{0};
constexpr uint64_t kListening = uint64_t{1} << 63;  // plus the socket's index; below: a connection's id
constexpr int kAcceptsAtOnce = 64;
constexpr milliseconds kBackOff{100};      // without descriptors or memory
constexpr milliseconds kLookPeriod{5000};  // for connections that have ended
constexpr milliseconds kLookPeriodWhenFull{50};
constexpr milliseconds kReportPeriod{10'000};

// A number that no other socket of this boot has.
std::optional<uint64_t> SocketNumber(int file) {
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (getsockopt(file, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0) return cookie;
  struct stat there {};
  if (fstat(file, &there) == 0 && S_ISSOCK(there.st_mode)) return there.st_ino;
  return std::nullopt;
}

// Ends a connection that gRPC owns: gRPC reads its end. `file` may have become another one meanwhile, so the
// socket is held, looked at and only then shut down.
void Cut(int file, uint64_t cookie) {
  const int held = fcntl(file, F_DUPFD_CLOEXEC, 0);
  if (held < 0) return;
  if (SocketNumber(held) == cookie) shutdown(held, SHUT_RDWR);
  close(held);
}

void SetOptions(int file, milliseconds unsent_timeout) {
  const int on = 1;
  const auto timeout = static_cast<unsigned>(unsent_timeout.count());
  setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(file, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  if (timeout > 0) setsockopt(file, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
}

}  // namespace

Acceptor::Acceptor(std::vector<ListeningSocket> sockets, const AcceptorOptions& options)
    : sockets_(std::move(sockets)),
      options_(options),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      reserve_(open("/dev/null", O_RDONLY | O_CLOEXEC)) {
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kWake}};
  epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
  for (size_t i = 0; i < sockets_.size(); ++i) {
    event.data.u64 = kListening + i;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, sockets_[i].file(), &event);
  }
}

void Acceptor::Start(Serve serve) {
  serve_ = std::move(serve);
  thread_ = std::jthread([this] { Run(); });
}

Acceptor::~Acceptor() {
  Stop();
  for (const int file : {epoll_, wake_, reserve_}) {
    if (file >= 0) close(file);
  }
}

void Acceptor::Stop() {
  if (stopping_.exchange(true)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);
  if (thread_.joinable()) thread_.join();
  sockets_.clear();
  const MutexLock lock(mutex_);
  for (const uint64_t id : table_.Ids()) {
    if (!table_.Find(id)->served) close(table_.Find(id)->file);
    table_.Remove(id);
  }
}

uint64_t Acceptor::CallStarted(const std::string& grpc_peer) {
  const std::string connection = PeerOfCall(grpc_peer).connection;
  const MutexLock lock(mutex_);
  const uint64_t id = table_.FindNamed(connection).value_or(0);
  table_.CallStarted(id);
  return id;
}

void Acceptor::CallEnded(uint64_t connection) {
  const MutexLock lock(mutex_);
  table_.CallEnded(connection, Clock::now());
}

void Acceptor::Run() {
  std::array<epoll_event, 256> events{};
  while (!stopping_) {
    const int count = epoll_wait(epoll_, events.data(), events.size(), WaitMs());
    if (!listening_ && Clock::now() >= listen_again_) SetListening(true);
    for (int i = 0; i < count; ++i) {
      const uint64_t about = events[i].data.u64;
      if (about == kWake) continue;
      if (about >= kListening) {
        Accept(sockets_[about - kListening]);
      } else {
        LookAt(about);
      }
    }
    CloseSilent();
    if (Clock::now() - last_look_ > kLookPeriod) {
      const MutexLock lock(mutex_);
      ForgetEnded();
    }
  }
}

int Acceptor::WaitMs() const {
  Time until = last_look_ + kLookPeriod;
  if (!silent_until_.empty()) until = std::min(until, silent_until_.front().first);
  if (!listening_) until = std::min(until, listen_again_);
  const auto wait = std::chrono::ceil<milliseconds>(until - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(wait, 0, kLookPeriod.count())) + 1;
}

void Acceptor::Accept(const ListeningSocket& listening) {
  for (int accepted = 0; accepted < kAcceptsAtOnce && !stopping_;) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    const int file =
        accept4(listening.file(), reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (file >= 0) {
      Admit(file, address, listening.is_unix());
    } else if (!Survive(errno, listening)) {
      return;
    }
    ++accepted;
  }
}

bool Acceptor::Survive(int error, const ListeningSocket& listening) {
  if (error == EAGAIN || error == EWOULDBLOCK) return false;
  const bool is_out_of_files = error == EMFILE || error == ENFILE;
  const bool is_out_of_memory = error == ENOBUFS || error == ENOMEM;
  // Other errors concern one connection that was about to be accepted (accept(2), Error handling).
  if (!is_out_of_files && !is_out_of_memory) return error != EBADF && error != EINVAL && error != ENOTSOCK;
  Report("accept: " + std::generic_category().message(error));
  if (is_out_of_files && reserve_ >= 0) {
    // The client learns at once that it is refused, and does not wait in the system's queue.
    close(reserve_);
    const int refused = accept4(listening.file(), nullptr, nullptr, SOCK_CLOEXEC);
    const bool was_refused = refused >= 0;
    if (was_refused) close(refused);
    reserve_ = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (was_refused && reserve_ >= 0) return true;
  }
  SetListening(false);
  return false;
}

// Out of files or memory, sockets stay ready: without a pause the thread would loop at full speed.
void Acceptor::SetListening(bool on) {
  listening_ = on;
  listen_again_ = Clock::now() + kBackOff;
  if (on && reserve_ < 0) reserve_ = open("/dev/null", O_RDONLY | O_CLOEXEC);
  for (size_t i = 0; i < sockets_.size(); ++i) {
    epoll_event event{.events = on ? uint32_t{EPOLLIN} : 0, .data = {.u64 = kListening + i}};
    epoll_ctl(epoll_, EPOLL_CTL_MOD, sockets_[i].file(), &event);
  }
}

void Acceptor::Admit(int file, const sockaddr_storage& address, bool is_unix) {
  if (!is_unix) SetOptions(file, options_.unsent_timeout);
  const std::optional<uint64_t> cookie = SocketNumber(file);
  Peer peer = PeerOfSocket(address, file);
  uint64_t id = 0;
  {
    const MutexLock lock(mutex_);
    if (cookie && MakeRoom(peer.share)) {
      id = table_.Add({.peer = peer, .file = file, .cookie = *cookie, .quiet_since = Clock::now()});
    }
  }
  epoll_event event{.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data = {.u64 = id}};
  if (id != 0 && epoll_ctl(epoll_, EPOLL_CTL_ADD, file, &event) == 0) {
    silent_until_.emplace_back(Clock::now() + options_.handshake_timeout, id);
    return;
  }
  if (id == 0) {
    Report("no place for a connection of " + peer.connection + ": max_connections is " +
           std::to_string(options_.max_connections));
  }
  const MutexLock lock(mutex_);
  table_.Remove(id);
  close(file);
}

bool Acceptor::MakeRoom(const std::string& share) {
  const auto max = static_cast<size_t>(options_.max_connections);
  if (table_.size() < max) return true;
  if (Clock::now() - last_look_ > kLookPeriodWhenFull) ForgetEnded();
  if (table_.size() < max) return true;
  const std::optional<uint64_t> victim = table_.WhoGivesWay(share);
  if (!victim) return false;
  Report("max_connections (" + std::to_string(options_.max_connections) + ") reached: closed one of " +
         table_.Find(*victim)->peer.connection);
  Drop(*victim);
  return true;
}

// The first bytes of a connection have come, or its end.
void Acceptor::LookAt(uint64_t id) {
  int file = -1;
  {
    const MutexLock lock(mutex_);
    const ConnectionTable::Connection* connection = table_.Find(id);
    if (connection == nullptr || connection->served) return;
    file = connection->file;
    std::array<char, kPreface.size()> bytes{};
    const ssize_t got = recv(file, bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0 || !kPreface.starts_with({bytes.data(), static_cast<size_t>(got)})) {
      Drop(id);
      return;
    }
    if (static_cast<size_t>(got) < kPreface.size()) return;
    epoll_ctl(epoll_, EPOLL_CTL_DEL, file, nullptr);
    table_.SetServed(id, Clock::now());
  }
  serve_(file);  // without the lock: gRPC may begin calls here
}

void Acceptor::CloseSilent() {
  const MutexLock lock(mutex_);
  while (!silent_until_.empty() && silent_until_.front().first <= Clock::now()) {
    const ConnectionTable::Connection* connection = table_.Find(silent_until_.front().second);
    if (connection != nullptr && !connection->served) Drop(silent_until_.front().second);
    silent_until_.pop_front();
  }
}

// Closes a connection, or has gRPC close it.
void Acceptor::Drop(uint64_t id) {
  const ConnectionTable::Connection* connection = table_.Find(id);
  if (connection->served) {
    Cut(connection->file, connection->cookie);
  } else {
    close(connection->file);
  }
  table_.Remove(id);
}

// gRPC does not say when it closes a connection.
void Acceptor::ForgetEnded() {
  last_look_ = Clock::now();
  for (const uint64_t id : table_.Ids()) {
    const ConnectionTable::Connection* connection = table_.Find(id);
    if (connection->served && SocketNumber(connection->file) != connection->cookie) table_.Remove(id);
  }
}

void Acceptor::Report(const std::string& trouble) {
  if (Clock::now() - last_report_ < kReportPeriod) {
    ++unreported_;
    return;
  }
  spdlog::warn("connections: {}{}", trouble,
               unreported_ > 0 ? " (and " + std::to_string(unreported_) + " more such since)" : "");
  unreported_ = 0;
  last_report_ = Clock::now();
}

}  // namespace espalier
