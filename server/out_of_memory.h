#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "kernels/base/exhaustion.h"
#include "kernels/base/result.h"

namespace espalier {

// Runs what a request asks for and returns what it returns, a Status or a Result: where it finds no memory,
// kResourceExhausted. The one place in which exceptions of a request end; `work` leaves nothing half done
// behind when it throws.
template <typename Work>
std::invoke_result_t<Work> CatchOutOfMemory(Work&& work) {
  try {
    return std::forward<Work>(work)();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  } catch (const std::length_error&) {  // a container larger than could ever be
    return OutOfMemory();
  } catch (const std::exception& error) {
    return InternalError(error.what());
  }
}

}  // namespace espalier
