#pragma once

#include <chrono>
#include <string>

namespace espalier {

// The server's log: lines on standard error, through spdlog. No thread that logs waits for the reader of the
// log: a thread of the log's own writes, and lines that find its queue full are counted and dropped. What
// clients send is made harmless here, for every line: control characters and broken UTF-8 come out
// escaped, and long lines are cut. gRPC's own lines, of which a client may cause any number, pass at a
// bounded rate.

// Once, before the first line. `level`: debug, info, warning, error. Throws std::system_error where the
// system gives no thread.
void StartLogging(const std::string& level);

// Until this call gRPC's lines count as debug: what prevents it from listening is reported by this program.
void LogLinesOfGrpc();

// Waits until all lines are written, but not longer than `patience`. Does nothing before StartLogging.
void FlushLog(std::chrono::milliseconds patience = std::chrono::milliseconds(500));

// The last line that gRPC logged as an error, or "". Safe in a signal handler.
const char* LastErrorOfGrpc();

}  // namespace espalier
