#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <optional>

#include "kernels/base/mutex.h"
#include "server/cli/admin.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/flags.h"
#include "server/cli/json_lines.h"
#include "server/cli/stats_view.h"
#include "server/console/manual.h"
#include "server/console/terminal.h"

namespace espalier::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr RealRange kSeconds{0.1, 3600.0};

// Fetches the counters over and over until a signal comes.
class Watcher {
 public:
  Watcher(const CommonOptions& common, double interval)
      : common_(common),
        interval_(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(interval))) {}

  int Run() {
    if (const int code = ConnectAdmin(common_, admin_); code != kExitDone) return code;
    const OnSignal on_signal([this] {
      const MutexLock lock(mutex_);
      ended_ = true;
      wake_.NotifyOne();
    });
    StatsSpan span;
    if (const grpc::Status status = Fetch(span); !status.ok()) return Fail(status);
    const bool on_screen = IsTerminal(STDOUT_FILENO) && !common_.json;
    std::optional<Screen> screen;
    if (on_screen) screen.emplace(STDOUT_FILENO);
    if (!on_screen && !common_.json) std::printf("%s\n", StatsHeader().c_str());
    std::vector<double> history;
    while (true) {
      if (on_screen) {
        if (ShowUntilNext(*screen, span, history)) return kExitDone;
      } else if (WaitFor(interval_)) {
        return kExitDone;
      }
      if (const grpc::Status status = Fetch(span); !status.ok()) {
        screen.reset();
        return Fail(status);
      }
      constexpr size_t kHistory = 200;
      history.push_back(TokenRate(span));
      if (history.size() > kHistory) history.erase(history.begin());
      if (common_.json) PrintLine(MessageToJson(span.now));
      if (!on_screen && !common_.json) {
        std::printf("%s\n", StatsLine(span).c_str());
        std::fflush(stdout);
      }
    }
  }

 private:
  int Fail(const grpc::Status& status) const { return ReportAdmin(status, admin_, common_.json); }

  grpc::Status Fetch(StatsSpan& span) {
    grpc::ClientContext context;
    v1::GetStatsResponse response;
    grpc::Status status = admin_.stub->GetStats(&context, {}, &response);
    if (!status.ok()) return status;
    const Clock::time_point now = Clock::now();
    // After a restart of the server there is nothing to compare with.
    const bool is_first = fetched_ == Clock::time_point() || response.steps() < span.now.steps();
    span.before = is_first ? response : span.now;
    span.now = response;
    span.seconds = is_first ? 0.0 : std::chrono::duration<double>(now - fetched_).count();
    fetched_ = now;
    return status;
  }

  // Draws, again where the terminal changes its size, until it is time to fetch. True: the end has come.
  bool ShowUntilNext(Screen& screen, const StatsSpan& span, const std::vector<double>& history) {
    constexpr std::chrono::milliseconds kLookAtSize(100);
    const Clock::time_point next = Clock::now() + interval_;
    while (true) {
      const TerminalSize size = SizeOf(STDOUT_FILENO);
      std::vector<std::string> lines = DrawStats(span, history, size.columns - 1);
      lines.insert(lines.begin(), {"Espalier's AdminService at " + admin_.address + "  (Ctrl-C ends)", ""});
      screen.Show(lines, size);
      const Clock::duration left = next - Clock::now();
      if (left <= Clock::duration::zero()) return false;
      if (WaitFor(std::min<Clock::duration>(left, kLookAtSize))) return true;
    }
  }

  bool WaitFor(Clock::duration time) {
    const Clock::time_point until = Clock::now() + time;
    const MutexLock lock(mutex_);
    while (!ended_ && wake_.WaitUntil(mutex_, until)) {
    }
    return ended_;
  }

  const CommonOptions& common_;
  const Clock::duration interval_;
  Admin admin_;
  Clock::time_point fetched_;
  Mutex mutex_;
  CondVar wake_;
  bool ended_ ESPALIER_GUARDED_BY(mutex_) = false;
};

int StatsOnce(const CommonOptions& common) {
  Admin admin;
  if (const int code = ConnectAdmin(common, admin); code != kExitDone) return code;
  grpc::ClientContext context;
  const CancelOnSignal cancel(context);
  v1::GetStatsResponse response;
  const grpc::Status status = admin.stub->GetStats(&context, {}, &response);
  if (status.ok()) PrintMessage(response, common.json);
  return ReportAdmin(status, admin, common.json);
}

}  // namespace

void AddStats(CLI::App& app, const CommonOptions& common, Run& run) {
  CLI::App* command = app.add_subcommand("stats", "Blocks, requests, tokens and times of the server");
  auto watch = std::make_shared<std::string>();
  command
      ->add_option(
          "--watch", *watch,
          "Show what changes, every so many seconds, in [0.1, 3600] [1]; on a terminal the whole screen, "
          "else a line each time")
      ->type_name("SECONDS")
      ->expected(0, 1);
  Describe(*command,
           {.usage = "[--watch [SECONDS]] [--json]",
            .more = "Counters run from the start of the server; proto/espalier/v1/admin.proto describes "
                    "each. With --watch, \"from cache\" and \"hits\" are the share of all needed tokens "
                    "that the prefix cache held, \"saved\" is the share of KV bytes that attention did "
                    "not read because branches share them.",
            .examples = {{"", "espalier stats --watch"},
                         {"A line every ten seconds, into a file:", "espalier stats --watch 10 > stats.txt"}},
            .exit_codes = {},
            .see = {}});
  command->callback([command, watch, &common, &run] {
    if (command->get_option("--watch")->count() == 0) {
      run = [&common] { return StatsOnce(common); };
      return;
    }
    double seconds = 1.0;
    if (!watch->empty()) {
      const std::string fault = FaultOfReal(*watch, kSeconds, seconds);
      if (!fault.empty()) throw CLI::ValidationError("--watch", fault);
    }
    run = [&common, seconds] { return Watcher(common, seconds).Run(); };
  });
}

}  // namespace espalier::cli
