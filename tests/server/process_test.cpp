// The server as a process: what its surroundings do to it. Logs that are not read, memory and threads that
// the system refuses, standard files that are closed, names that are made to deceive.
#include "server/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <new>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "server/log_writer.h"
#include "server/port_file.h"
#include "tests/server/child_process.h"
#include "tests/server/server_process.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#include "tests/support/sanitized.h"

namespace espalier::test {
namespace {

namespace fs = std::filesystem;

std::string ReadAll(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

bool Holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("espalier_process_" + std::to_string(getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

// espalier-server with the demo model, started by a shell: `before` are commands for the shell,
// `redirections` what stands behind the command.
std::vector<std::string> ByShell(const std::string& before, const std::string& redirections,
                                 const std::vector<std::string>& flags,
                                 const std::string& model = (SourceDir() / "model/demo").string()) {
  std::vector<std::string> words = {"/bin/sh",
                                    "-c",
                                    before + "exec \"$@\" " + redirections,
                                    "sh",
                                    ESPALIER_SERVER_PROGRAM,
                                    "--model",
                                    model,
                                    "--listen",
                                    "127.0.0.1:0",
                                    "--threads",
                                    "2",
                                    "--admin-listen",
                                    "off",
                                    "--kv-cache-bytes",
                                    "16777216"};
  words.insert(words.end(), flags.begin(), flags.end());
  return words;
}

void CheckThatItServes(int port) {
  const auto stub = v1::TreeService::NewStub(NewChannelTo("127.0.0.1:" + std::to_string(port)));
  CHECK(Generate(*stub, FewShot("list 5 8 gives", 2, 4)).status.ok());
}

// A pipe with a name, and a reader that reads nothing.
class StalledPipe {
 public:
  explicit StalledPipe(const std::string& path) {
    REQUIRE(mkfifo(path.c_str(), 0600) == 0);
    reader_ = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    REQUIRE(reader_ >= 0);
  }
  ~StalledPipe() { Close(); }
  void Close() {
    if (reader_ >= 0) close(reader_);
    reader_ = -1;
  }
  // Leaves no room for a byte.
  static void Fill(const std::string& path) {
    const int writer = open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    REQUIRE(writer >= 0);
    for (const size_t bytes : {size_t{4096}, size_t{1}}) {
      const std::string filling(bytes, '.');
      while (write(writer, filling.data(), filling.size()) > 0) {
      }
    }
    close(writer);
  }

 private:
  int reader_ = -1;
};

TEST_CASE("a server whose log has lost its reader serves, and drains to the end") {
  const Folder folder;
  StalledPipe log(folder / "log");
  ChildProcess server(ByShell("", "2>" + folder / "log", {"--port-file", folder / "port"}));
  const int port = WaitForPort(server, folder / "port");
  log.Close();
  CheckThatItServes(port);
  server.Send(SIGTERM);
  CHECK(server.WaitForEnd(60) == 0);
}

TEST_CASE("a server whose log is not read starts, serves, and drains to the end") {
  const Folder folder;
  const std::string path = folder / "log";
  const StalledPipe log(path);
  StalledPipe::Fill(path);
  ChildProcess server(ByShell("", "2>" + path, {"--port-file", folder / "port"}));
  CheckThatItServes(WaitForPort(server, folder / "port"));
  server.Send(SIGTERM);
  CHECK(server.WaitForEnd(60) == 0);
}

TEST_CASE("a server that cannot start ends, though its log is not read") {
  const Folder folder;
  const std::string path = folder / "log";
  const StalledPipe log(path);
  StalledPipe::Fill(path);
  ChildProcess server(ByShell("", "2>" + path, {}, folder / "nothing"));
  CHECK(server.WaitForEnd(60) == 2);
  ChildProcess without_weights(ByShell("", "2>" + path, {}, (SourceDir() / "model").string()));
  CHECK(without_weights.WaitForEnd(60) == 2);
}

TEST_CASE("lines that a log's file does not take are dropped, counted, and hold up no thread") {
  const Folder folder;
  const std::string path = folder / "log";
  const StalledPipe log(path);
  const int both = open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(both >= 0);
  StalledPipe::Fill(path);
  {
    LogWriter writer(both);
    constexpr int kLines = 5000;
    for (int i = 0; i < kLines; ++i) writer.Write(std::string(999, 'x') + "\n");
    CHECK_FALSE(writer.Flush(std::chrono::milliseconds(1)));
    std::string read_back;
    std::thread reader([&] {
      std::array<char, 65536> buffer{};
      while (!Holds(read_back, "were dropped")) {
        const ssize_t got = read(both, buffer.data(), buffer.size());
        if (got <= 0) return;
        read_back.append(buffer.data(), static_cast<size_t>(got));
      }
    });
    CHECK(writer.Flush(std::chrono::minutes(1)));
    reader.join();
    const auto written = std::count(read_back.begin(), read_back.end(), '\n') - 1;
    CHECK(written > 500);
    CHECK(Holds(read_back, "(" + std::to_string(kLines - written) + " lines of the log were dropped"));
  }
  close(both);
}

TEST_CASE("a server that gets too little memory says so and ends with 1 or 2, or it serves") {
  if (kSanitized) return SkipTest("sanitizers reserve terabytes of addresses");
  const Folder folder;
  int refused = 0;
  int served = 0;
  for (int mebibytes = 24; mebibytes <= 744; mebibytes += mebibytes < 320 ? 20 : 100) {
    INFO("ulimit -v " << mebibytes << " MiB");
    fs::remove(folder / "port");
    ChildProcess server(
        ByShell("ulimit -v " + std::to_string(mebibytes * 1024) + "; ", "", {"--port-file", folder / "port"}),
        folder / "log");
    if (const int port = WaitForPort(server, folder / "port"); port != 0) {
      ++served;
      CHECK(IsServing(NewChannelTo("127.0.0.1:" + std::to_string(port))));
      server.Send(SIGTERM);
      CHECK(server.WaitForEnd(60) == 0);
      continue;
    }
    const auto code = server.WaitForEnd(60);
    const std::string log = ReadAll(folder / "log");
    INFO(log);
    REQUIRE(code.has_value());
    if (*code == 127) {  // the system could not even load the program
      CHECK(Holds(log, "error while loading shared libraries"));
      continue;
    }
    ++refused;
    CHECK((*code == 1 || *code == 2));
    CHECK(log.starts_with("error: "));
    CHECK(std::count(log.begin(), log.end(), '\n') == 1);
  }
  CHECK(refused > 0);
  CHECK(served > 0);
}

TEST_CASE("standard files that are closed at start become /dev/null, not sockets") {
  const Folder folder;
  const std::string closed = GENERATE("0<&- 1>&- 2>&-", "1>&-", "2>&-");
  INFO(closed);
  ChildProcess server(ByShell("echo $$; ", closed, {"--port-file", folder / "port"}));
  std::string pid;
  REQUIRE(server.WaitForLine([&](const std::string& line) {
    pid = line;
    return true;
  }));
  const int port = WaitForPort(server, folder / "port");
  for (const char* file : {"0", "1", "2"}) {
    if (!Holds(closed, file)) continue;
    CHECK(fs::read_symlink("/proc/" + pid + "/fd/" + file) == "/dev/null");
  }
  CheckThatItServes(port);
  server.Send(SIGTERM);
  CHECK(server.WaitForEnd(60) == 0);
}

TEST_CASE("a port file touches no file but its own, whatever links are planted") {
  const Folder folder;
  std::ofstream(folder / "victim") << "precious";
  const std::string port = folder / "port";
  SECTION("at the name that a former version wrote first") {
    fs::create_symlink(folder / "victim", folder / "port.new");
    CHECK(WritePortFile("--port-file", port, 4711).ok());
    CHECK(fs::is_symlink(folder / "port.new"));
  }
  SECTION("at the names that it writes first") {
    for (int i = 0; i < 10; ++i) {
      fs::create_symlink(folder / "victim",
                         port + ".new." + std::to_string(getpid()) + "." + std::to_string(i));
    }
    CHECK(WritePortFile("--port-file", port, 4711).ok());
  }
  SECTION("at its place") {
    fs::create_symlink(folder / "victim", port);
    CHECK(WritePortFile("--port-file", port, 4711).ok());
    CHECK_FALSE(fs::is_symlink(port));
  }
  SECTION("at its place, to nothing") {
    fs::create_symlink(folder / "nothing", port);
    CHECK(WritePortFile("--port-file", port, 4711).ok());
    CHECK_FALSE(fs::exists(folder / "nothing"));
  }
  CHECK(ReadAll(port) == "4711\n");
  CHECK(ReadAll(folder / "victim") == "precious");
}

TEST_CASE("a port file goes into a pipe, replaces an older one, and says why it cannot be written") {
  const Folder folder;
  std::ofstream(folder / "port") << "an older one, and longer";
  CHECK(WritePortFile("--port-file", folder / "port", 1).ok());
  CHECK(ReadAll(folder / "port") == "1\n");

  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  const int reader = open((folder / "pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  CHECK(WritePortFile("--port-file", folder / "pipe", 22).ok());
  std::array<char, 16> buffer{};
  CHECK(read(reader, buffer.data(), buffer.size()) == 3);
  close(reader);
  CHECK(fs::is_fifo(folder / "pipe"));

  fs::create_directory(folder / "folder");
  const Status is_folder = WritePortFile("--admin-port-file", folder / "folder", 1);
  REQUIRE_FALSE(is_folder.ok());
  CHECK(is_folder.error().ToString() ==
        "--admin-port-file: cannot write " + folder / "folder" + ": Is a directory");
  CHECK(std::distance(fs::directory_iterator(fs::path(folder / "x").parent_path()),
                      fs::directory_iterator()) == 3);
}

TEST_CASE("--port-file /dev/stdout prints the port") {
  ChildProcess server(ByShell("", "", {"--port-file", "/dev/stdout", "--log-level", "error"}));
  CHECK(server.WaitForLine([](const std::string& line) { return std::atoi(line.c_str()) > 0; }));
}

// What `end` brings out on standard error in a process of its own, after PrepareProcess; and how that ended,
// as waitpid says.
std::string Ending(const std::function<void()>& end, int* status) {
  std::array<int, 2> pipe_ends{};
  REQUIRE(pipe(pipe_ends.data()) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe_ends[1], STDERR_FILENO);
    PrepareProcess(nullptr);      // no standard file is closed
    [&]() noexcept { end(); }();  // an exception goes no further
    _exit(77);
  }
  close(pipe_ends[1]);
  std::string text;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = read(pipe_ends[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  close(pipe_ends[0]);
  REQUIRE(waitpid(child, status, 0) == child);
  return text;
}

TEST_CASE("what ends the process is named: exceptions, exhausted memory, abort") {
  int status = 0;
  const auto thrown = [](const auto& exception) { return [exception] { throw exception; }; };
  CHECK(Ending(thrown(std::runtime_error("the reason")), &status) ==
        "error: the server ends while starting: an exception that nothing caught: the reason\n");
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 1));
  CHECK(Ending(thrown(std::bad_alloc()), &status) ==
        "error: the server ends while starting: out of memory\n");
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 1));
  CHECK(Holds(Ending([] { std::abort(); }, &status), "error: the server ends while starting: aborted"));
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 1));
  const auto serving = [&](const auto& end) {
    return [end] {
      NowDoing("serving", /*starts=*/false);
      end();
    };
  };
  CHECK(Ending(serving(thrown(42)), &status) ==
        "error: the server ends while serving: an exception of unknown type that nothing caught\n");
  CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT));
  CHECK(Holds(Ending(serving([] { std::abort(); }), &status), "while serving: aborted"));
  CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT));
}

// One request with a header that gRPC complains of in its own words, and in the client's.
void SendBadTimeout(int port, const std::string& timeout) {
  const auto frame = [](char type, char flags, char stream, const std::string& payload) {
    std::string head = {0,
                        static_cast<char>(payload.size() >> 8U),
                        static_cast<char>(payload.size() & 0xffU),
                        type,
                        flags,
                        0,
                        0,
                        0,
                        stream};
    return head + payload;
  };
  std::string headers;
  for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{
           {":method", "POST"},
           {":scheme", "http"},
           {":path", "/espalier.v1.TreeService/Generate"},
           {":authority", "x"},
           {"te", "trailers"},
           {"content-type", "application/grpc"},
           {"grpc-timeout", timeout}}) {  // literal, never indexed, no Huffman code: RFC 7541, 6.2.2
    headers += std::string(1, '\0') + static_cast<char>(name.size()) + name +
               static_cast<char>(value.size()) + value;
  }
  const int socket_file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(connect(socket_file, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  const std::string bytes = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, "") +
                            frame(1, 5, 1, headers) +
                            frame(6, 0, 0, "12345678");  // a ping: its answer comes when all that is read
  REQUIRE(send(socket_file, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
  std::string answer;
  for (char byte = 0; !answer.ends_with("12345678") && recv(socket_file, &byte, 1, 0) == 1;) answer += byte;
  CHECK(answer.ends_with("12345678"));
  close(socket_file);
}

TEST_CASE("what clients and folders are called comes out of the log escaped, line by line") {
  const Folder folder;
  const std::string model = folder / "evil\x1b]0;pwned\x07\nname\x9b";
  fs::copy(SourceDir() / "model/demo", model, fs::copy_options::recursive);
  ChildProcess server(ByShell("", "", {"--port-file", folder / "port"}, model), folder / "log");
  const int port = WaitForPort(server, folder / "port");
  SendBadTimeout(port, "\x1b]0;remote\x07");
  SendBadTimeout(port, "1\n2026-12-01T00:00:00.000 error forged");
  server.Send(SIGTERM);
  CHECK(server.WaitForEnd(60) == 0);
  const std::string log = ReadAll(folder / "log");
  INFO(log);
  CHECK(Holds(log, "evil\\x1b]0;pwned\\x07\\nname\\x9b"));
  CHECK(Holds(log, "\\x1b]0;remote\\x07"));
  CHECK(Holds(log, "\\n2026-12-01T00:00:00.000 error forged"));
  for (const char c : log) CHECK((c == '\n' || static_cast<unsigned char>(c) >= 0x20));
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) CHECK(line.starts_with(log.substr(0, 8)));
}

}  // namespace
}  // namespace espalier::test
