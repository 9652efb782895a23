#include "server/listening_socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include "server/address.h"

namespace espalier {
namespace {

constexpr int kBacklog = SOMAXCONN;

std::string TextOf(int error) { return std::generic_category().message(error); }

Error CannotListen(const std::string& flag, const std::string& address, const std::string& why) {
  return InvalidArgument(flag, "cannot listen at " + address + ": " + why);
}

int PortOf(int file) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (getsockname(file, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

void SetPort(addrinfo& address, int port) {
  if (address.ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address.ai_addr)->sin6_port = htons(static_cast<uint16_t>(port));
  } else {
    reinterpret_cast<sockaddr_in*>(address.ai_addr)->sin_port = htons(static_cast<uint16_t>(port));
  }
}

// Binds and listens; 0 or why not. [::] takes IPv4 too.
int Bind(int file, const addrinfo& address) {
  const int on = 1;  // connections of an earlier server do not count
  const int off = 0;
  if (setsockopt(file, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) return errno;
  if (address.ai_family == AF_INET6) {
    const auto& v6 = *reinterpret_cast<const sockaddr_in6*>(address.ai_addr);
    const bool is_any = IN6_IS_ADDR_UNSPECIFIED(&v6.sin6_addr);
    setsockopt(file, IPPROTO_IPV6, IPV6_V6ONLY, is_any ? &off : &on, sizeof on);
  }
  if (bind(file, address.ai_addr, address.ai_addrlen) != 0) return errno;
  return listen(file, kBacklog) == 0 ? 0 : errno;
}

bool IsMissingFamily(int error) { return error == EAFNOSUPPORT || error == EADDRNOTAVAIL; }

// Held while the file of a unix socket is looked at and replaced, so that two servers that start at one time
// do not replace each other's. Where the folder cannot be locked there is no such care.
class FolderLock {
 public:
  explicit FolderLock(const std::string& file) {
    const auto folder = std::filesystem::path(file).parent_path();
    folder_ = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder_ >= 0) flock(folder_, LOCK_EX);
  }
  ~FolderLock() {
    if (folder_ >= 0) close(folder_);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int folder_ = -1;
};

// Removes the socket that a server left when it was killed. Returns why PATH cannot be used, or nothing.
std::string ClearPath(const std::string& path, const sockaddr_un& address) {
  struct stat there {};
  if (lstat(path.c_str(), &there) != 0) return errno == ENOENT ? "" : TextOf(errno);
  if (!S_ISSOCK(there.st_mode)) return "there is something that is no socket";
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) return TextOf(errno);
  const int failed =
      connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ? 0 : errno;
  close(probe);
  if (failed != ECONNREFUSED) return failed == 0 || failed == EAGAIN ? TextOf(EADDRINUSE) : TextOf(failed);
  return unlink(path.c_str()) == 0 ? "" : TextOf(errno);
}

}  // namespace

ListeningSocket::ListeningSocket(ListeningSocket&& other) noexcept
    : file_(std::exchange(other.file_, -1)),
      port_(other.port_),
      path_(std::exchange(other.path_, {})),
      device_(other.device_),
      inode_(other.inode_) {}

ListeningSocket::~ListeningSocket() {
  struct stat there {};
  if (!path_.empty() && lstat(path_.c_str(), &there) == 0 && there.st_dev == device_ &&
      there.st_ino == inode_) {
    unlink(path_.c_str());
  }
  if (file_ >= 0) close(file_);
}

Result<ListeningSocket> ListeningSocket::OpenUnix(const std::string& flag, const std::string& address,
                                                  const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof name.sun_path) {
    return CannotListen(flag, address,
                        "the path must be shorter than " + std::to_string(sizeof name.sun_path) + " bytes");
  }
  std::memcpy(name.sun_path, path.c_str(), path.size() + 1);
  const FolderLock lock(path);
  if (const std::string why = ClearPath(path, name); !why.empty()) return CannotListen(flag, address, why);
  ListeningSocket listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  struct stat made {};
  if (listening.file_ < 0 ||
      bind(listening.file_, reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 ||
      listen(listening.file_, kBacklog) != 0 || lstat(path.c_str(), &made) != 0) {
    return CannotListen(flag, address, TextOf(errno));
  }
  listening.path_ = path;
  listening.device_ = made.st_dev;
  listening.inode_ = made.st_ino;
  return listening;
}

Result<std::vector<ListeningSocket>> ListeningSocket::Open(const std::string& flag,
                                                           const std::string& address) {
  const std::optional<Address> parsed = ParseAddress(address);
  if (!parsed) return CannotListen(flag, address, "neither HOST:PORT nor unix:PATH");
  std::vector<ListeningSocket> sockets;
  if (parsed->is_unix()) {
    auto listening = OpenUnix(flag, address, parsed->path);
    if (!listening) return listening.error();
    sockets.push_back(std::move(*listening));
    return sockets;
  }
  std::string host = parsed->host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int unknown = getaddrinfo(host.c_str(), std::to_string(parsed->port).c_str(), &hints, &found);
  if (unknown != 0) return CannotListen(flag, address, gai_strerror(unknown));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, &freeaddrinfo);
  int failed = 0;
  constexpr int kTries = 16;  // a port that is free at the first address may be taken at the second
  for (int tries = 0; tries < kTries; ++tries) {
    failed = 0;
    int port = parsed->port;
    for (addrinfo* each = found; each != nullptr; each = each->ai_next) {
      SetPort(*each, port);
      ListeningSocket listening(
          socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, each->ai_protocol));
      const int error = listening.file_ < 0 ? errno : Bind(listening.file_, *each);
      if (error != 0 && (failed == 0 || !IsMissingFamily(error))) failed = error;
      if (error != 0) continue;
      port = listening.port_ = PortOf(listening.file_);
      sockets.push_back(std::move(listening));
    }
    if (!sockets.empty() && (failed == 0 || IsMissingFamily(failed))) return sockets;
    const bool try_again = failed == EADDRINUSE && parsed->port == 0 && !sockets.empty();
    sockets.clear();
    if (!try_again) break;
  }
  return CannotListen(flag, address, TextOf(failed));
}

}  // namespace espalier
