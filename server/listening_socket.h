#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "kernels/base/result.h"

namespace espalier {

// A socket that listens: closed when destroyed, and the file of a unix socket removed if it is still this
// one.
class ListeningSocket {
 public:
  // Listens at HOST:PORT, at all addresses of the host with the same port (those of a family that this
  // machine lacks are left out), or at unix:PATH, where the socket of a server that has ended is replaced.
  // Errors name `flag`: whatever else is at PATH is left alone, as is a socket at which a program listens.
  // The permissions of a unix socket's file, set by the umask, decide who may connect.
  static Result<std::vector<ListeningSocket>> Open(const std::string& flag, const std::string& address);

  ListeningSocket(ListeningSocket&& other) noexcept;
  ListeningSocket& operator=(ListeningSocket&&) = delete;
  ListeningSocket(const ListeningSocket&) = delete;
  ~ListeningSocket();

  int file() const { return file_; }  // does not block
  int port() const { return port_; }  // 0 for a unix socket
  bool is_unix() const { return !path_.empty(); }

 private:
  explicit ListeningSocket(int file) : file_(file) {}
  static Result<ListeningSocket> OpenUnix(const std::string& flag, const std::string& address,
                                          const std::string& path);

  int file_ = -1;
  int port_ = 0;
  std::string path_;
  dev_t device_ = 0;  // of the file at path_
  ino_t inode_ = 0;
};

}  // namespace espalier
