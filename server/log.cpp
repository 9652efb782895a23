#include "server/log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string_view>

#include "kernels/base/mutex.h"
#include "server/console/terminal.h"
#include "server/console/text.h"
#include "server/log_writer.h"

namespace espalier {
namespace {

constexpr size_t kMaxLineBytes = 2000;
constexpr int kGrpcLinesPerSecond = 10;

LogWriter* log_writer = nullptr;  // never destroyed: lines may come until the process has ended

// Everything that is logged passes here.
class Sink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit Sink(bool coloured) : coloured_(coloured) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    std::string_view text(message.payload.data(), message.payload.size());
    const size_t cut = text.size() > kMaxLineBytes ? text.size() - kMaxLineBytes : 0;
    text.remove_suffix(cut);
    std::string shown = cli::Escaped(text);
    if (cut > 0) shown += "... (" + std::to_string(cut) + " more bytes)";
    spdlog::details::log_msg harmless = message;
    harmless.payload = shown;
    spdlog::memory_buf_t line;
    formatter_->format(harmless, line);
    log_writer->Write(coloured_ ? Coloured(line, harmless) : std::string(line.data(), line.size()));
  }
  void flush_() override {}

  static std::string Coloured(const spdlog::memory_buf_t& line, const spdlog::details::log_msg& message) {
    const std::string_view text(line.data(), line.size());
    const size_t begin = message.color_range_start;
    const size_t end = message.color_range_end;
    const char* const colour = message.level >= spdlog::level::err    ? "\033[31m"
                               : message.level == spdlog::level::warn ? "\033[33m"
                               : message.level == spdlog::level::info ? "\033[32m"
                                                                      : "\033[36m";
    return std::string(text.substr(0, begin)) + colour + std::string(text.substr(begin, end - begin)) +
           "\033[m" + std::string(text.substr(end));
  }

  const bool coloured_;
};

// gRPC's lines: at most so many a second, then their number.
class GrpcLines {
 public:
  void Log(spdlog::level::level_enum level, const char* message) {
    const auto now = std::chrono::steady_clock::now();
    int64_t untold = 0;
    {
      const MutexLock lock(mutex_);
      if (now - begin_ >= std::chrono::seconds(1)) {
        untold = lines_ - kGrpcLinesPerSecond;
        lines_ = 0;
        begin_ = now;
      }
      if (++lines_ > kGrpcLinesPerSecond) return;
    }
    if (untold > 0) spdlog::log(level, "grpc: {} more lines like the last ones", untold);
    spdlog::log(level, "grpc: {}", message);
  }

 private:
  Mutex mutex_;
  std::chrono::steady_clock::time_point begin_ ESPALIER_GUARDED_BY(mutex_);  // of the second that counts
  int64_t lines_ ESPALIER_GUARDED_BY(mutex_) = 0;                            // in it
};

std::atomic<bool> grpc_listens = false;

// Two places, so that a signal handler reads one that is not being written.
std::atomic<const char*> last_error = "";
Mutex last_error_mutex;
std::array<std::array<char, 512>, 2> last_errors ESPALIER_GUARDED_BY(last_error_mutex);
size_t next_error ESPALIER_GUARDED_BY(last_error_mutex) = 0;

void KeepError(const char* message) {
  const std::string text = cli::Escaped(message);
  const MutexLock lock(last_error_mutex);
  std::array<char, 512>& place = last_errors[next_error];
  next_error = 1 - next_error;
  std::snprintf(place.data(), place.size(), "%s", text.c_str());
  last_error = place.data();
}

void LogFromGrpc(gpr_log_func_args* line) {
  static auto& lines = *new GrpcLines;
  const bool is_error = line->severity == GPR_LOG_SEVERITY_ERROR;
  if (!grpc_listens) {
    if (is_error) KeepError(line->message);
    spdlog::debug("grpc: {}", line->message);
    return;
  }
  const auto level = is_error                                  ? spdlog::level::err
                     : line->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::info
                                                               : spdlog::level::debug;
  if (spdlog::should_log(level)) lines.Log(level, line->message);
}

}  // namespace

void StartLogging(const std::string& level) {
  log_writer = new LogWriter(STDERR_FILENO);
  auto sink = std::make_shared<Sink>(cli::UseColour("auto", STDERR_FILENO));
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("espalier", std::move(sink)));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  spdlog::set_level(spdlog::level::from_str(level));
  gpr_set_log_function(LogFromGrpc);
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
  google::protobuf::SetLogHandler(nullptr);
}

void LogLinesOfGrpc() { grpc_listens = true; }

void FlushLog(std::chrono::milliseconds patience) {
  if (log_writer != nullptr) log_writer->Flush(patience);
}

const char* LastErrorOfGrpc() { return last_error; }

}  // namespace espalier
