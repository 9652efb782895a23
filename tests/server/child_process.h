#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace espalier::test {

// A program that runs next to the test. Killed and waited for when this is destroyed.
class ChildProcess {
 public:
  // `arguments[0]` is the program's path. Its standard output is read by WaitForLine, its standard error goes
  // to the file `errors`, or to the test's own where that is empty.
  explicit ChildProcess(const std::vector<std::string>& arguments, const std::string& errors = {});
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void Send(int signal) const;

  // Reads standard output until a line for which `wanted` holds. False: the output ended before, or 60 s
  // passed without a line.
  bool WaitForLine(const std::function<bool(const std::string&)>& wanted);

  // The exit code, or minus the number of the signal that ended it; none: it still runs after `seconds`.
  std::optional<int> WaitForEnd(int seconds);

 private:
  pid_t pid_ = -1;
  int output_ = -1;
  std::string unread_;
  std::optional<int> ended_;
};

}  // namespace espalier::test
