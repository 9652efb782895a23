#pragma once

#include <string_view>

#include "kernels/base/result.h"

namespace espalier {

// Prepares a server's process before anything else happens in it: standard files that are
// closed are opened to /dev/null, or a socket would take their number and get what is printed; a reader that
// has gone makes a write fail, not the process (SIGPIPE); and what ends the process in spite of everything,
// an exception that nothing caught or abort(), is named on standard error. Call first in main.
void PrepareProcess(char** argv);

// For the last message of a process: gives up where nothing reads it. Safe in a signal handler.
void WriteToStandardError(std::string_view text);

// What the process is doing, for those messages: "loading the model". A literal. While it `starts`, such an
// end is the exit code 1; later it stays SIGABRT.
void NowDoing(const char* what, bool starts);

// Whether the system gives what serving takes beyond what is allocated already: gRPC's threads and some
// memory. gRPC itself aborts where it does not.
Status CheckRoomToServe();

}  // namespace espalier
