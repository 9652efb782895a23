#include "server/process.h"

#include <grpc/support/cpu.h>
#include <malloc.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <latch>
#include <new>
#include <thread>
#include <vector>

#include "server/console/standard_files.h"
#include "server/log.h"

namespace espalier {
namespace {

constexpr size_t kServingBytes = size_t{64} << 20;

std::atomic<const char*> doing = "starting";
std::atomic<bool> starting = true;
std::atomic<bool> end_named = false;  // by the terminate handler, which aborts then

// Signal handlers call it too: no allocation, no lock. What the log has queued is written by its own thread.
void SayEnd(const char* why, const char* detail) {
  end_named = true;
  std::array<char, 1024> line{};
  size_t length = 0;
  for (const char* part :
       {"error: the server ends while ", doing.load(), ": ", why, *detail == 0 ? "" : ": ", detail}) {
    const size_t bytes = std::min(std::strlen(part), line.size() - 1 - length);
    std::memcpy(line.data() + length, part, bytes);
    length += bytes;
  }
  line[length++] = '\n';
  WriteToStandardError({line.data(), length});
}

[[noreturn]] void OnTerminate() {
  const char* why = "terminated";
  const char* detail = "";
  if (const std::exception_ptr thrown = std::current_exception()) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
      why = "out of memory";
    } catch (const std::exception& error) {
      why = "an exception that nothing caught";
      detail = error.what();
      SayEnd(why, detail);  // while the text lives
    } catch (...) {
      why = "an exception of unknown type that nothing caught";
    }
  }
  if (!end_named) SayEnd(why, detail);
  if (starting) std::_Exit(1);
  std::abort();
}

void OnAbort(int /*signal*/) {
  if (!end_named) {
    const char* const grpc = LastErrorOfGrpc();
    SayEnd("aborted; libraries do so when the system gives no memory or no thread", grpc);
  }
  if (starting) std::_Exit(1);
  // SA_RESETHAND: abort() goes on to end the process as it would have.
}

}  // namespace

void WriteToStandardError(std::string_view text) {
  constexpr int kPatienceMs = 500;
  constexpr size_t kPiece = 512;  // _POSIX_PIPE_BUF: a pipe that can be written takes so much without waiting
  while (!text.empty()) {
    pollfd ready{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (poll(&ready, 1, kPatienceMs) == 0) return;
    const ssize_t written = write(STDERR_FILENO, text.data(), std::min(kPiece, text.size()));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

void PrepareProcess(char** argv) {
  cli::HoldStandardFiles(argv, cli::ClosedFile::kIgnored);
  std::signal(SIGPIPE, SIG_IGN);
  std::set_terminate(OnTerminate);
  struct sigaction action = {};
  action.sa_handler = OnAbort;
  action.sa_flags = SA_RESETHAND;
  sigaction(SIGABRT, &action, nullptr);
  // glibc reserves 64 MiB of addresses for each thread that allocates: where they are limited, that would use
  // up the limit and leave no room for the stacks of threads.
  rlimit addresses{};
  if (getrlimit(RLIMIT_AS, &addresses) == 0 && addresses.rlim_cur != RLIM_INFINITY) mallopt(M_ARENA_MAX, 1);
}

void NowDoing(const char* what, bool starts) {
  doing = what;
  starting = starts;
}

Status CheckRoomToServe() {
  // What gRPC 1.51 starts with on so many cores (its event engine, its callbacks, its timers and executors),
  // and some that it starts under load.
  const int cores = static_cast<int>(gpr_cpu_num_cores());
  const int count = std::clamp(cores, 2, 32) + std::clamp(cores / 2, 2, 16) + 14;
  const auto refused = [&](const std::string& what, const std::string& why) {
    return Error{ErrorCode::kResourceExhausted, "--listen",
                 "the system gives no room to serve: " + what + ": " + why +
                     " (ulimit -v, ulimit -u, or the limits of the container; --kv-cache-bytes and --threads "
                     "take less of both)"};
  };
  void* const memory = mmap(nullptr, kServingBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return refused(std::to_string(kServingBytes >> 20) + " MiB of memory", std::strerror(errno));
  }
  std::string why;
  std::latch all_tried(1);
  std::vector<std::thread> threads;
  try {
    for (int i = 0; i < count; ++i) threads.emplace_back([&] { all_tried.wait(); });
  } catch (const std::exception& error) {
    why = error.what();
  }
  all_tried.count_down();
  for (std::thread& thread : threads) thread.join();
  munmap(memory, kServingBytes);
  return why.empty() ? Status() : Status(refused(std::to_string(count) + " threads", why));
}

}  // namespace espalier
