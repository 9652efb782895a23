#pragma once

#include <chrono>
#include <string>

namespace espalier::test {

// A TCP connection to 127.0.0.1 that sends what a test wants, right or wrong.
class RawConnection {
 public:
  explicit RawConnection(int port);
  ~RawConnection();
  RawConnection(RawConnection&& other) noexcept : file_(other.file_) { other.file_ = -1; }
  RawConnection& operator=(RawConnection&&) = delete;
  RawConnection(const RawConnection&) = delete;

  // False: the other end has closed.
  bool Send(const std::string& bytes) const;

  // Reads and forgets what comes until the other end closes. False: it has not within `timeout`.
  bool IsClosedWithin(std::chrono::milliseconds timeout) const;

  int file() const { return file_; }

 private:
  int file_ = -1;
};

// HTTP/2: what a client sends first, and one frame (RFC 9113, section 4.1).
inline constexpr char kHttp2Preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
std::string Http2Frame(char type, char flags, uint32_t stream, const std::string& payload = {});

}  // namespace espalier::test
