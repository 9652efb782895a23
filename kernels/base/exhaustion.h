#pragma once

#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "kernels/base/result.h"

namespace espalier {

// The error of a request that finds no memory. Short enough to need none itself.
inline Error OutOfMemory() { return {ErrorCode::kResourceExhausted, "", "out of memory"}; }

// Calls `make`, which returns a Result or a Status. Where the standard library throws because the system
// gives no more memory or no more threads, that is kResourceExhausted of `field`: exceptions cross no folder.
// `what` says what was being done, e.g. "loading the weights".
template <typename Make>
auto OrExhausted(const std::string& field, const char* what, Make make) -> decltype(make()) {
  try {
    return std::forward<Make>(make)();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kResourceExhausted, field, std::string("out of memory while ") + what};
  } catch (const std::system_error& refused) {  // of a thread, mostly
    return Error{ErrorCode::kResourceExhausted, field,
                 std::string("the system refused while ") + what + ": " + refused.what()};
  }
}

}  // namespace espalier
