// Describes to ThreadSanitizer how gRPC hands work from thread to thread. The system's gRPC and abseil are
// not instrumented and abseil's mutex is no pthread mutex, so without this every hand-over looks like a race.
// Defines the functions in question in the program, where the dynamic linker finds them first, and passes
// each call on. Only linked in builds with -fsanitize=thread.
#include <absl/base/options.h>
#include <absl/synchronization/mutex.h>
#include <dlfcn.h>
#include <grpc/grpc.h>
#include <grpcpp/support/server_callback.h>
#include <sanitizer/tsan_interface.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

// The library's own function behind the one defined here.
template <typename Function>
Function* Real(const std::string& symbol) {
  void* function = dlsym(RTLD_NEXT, symbol.c_str());
  if (function == nullptr) {
    std::fprintf(stderr, "no library defines %s\n", symbol.c_str());
    std::abort();
  }
  return reinterpret_cast<Function*>(function);
}

#define ESPALIER_TEXT_OF(name) #name
#define ESPALIER_TEXT(name) ESPALIER_TEXT_OF(name)

// Mangled name of a member of absl::<inline namespace>; `member` is mangled: "5Mutex4LockEv".
std::string AbslSymbol(const char* member) {
  const std::string space = ESPALIER_TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  return "_ZN4absl" + std::to_string(space.size()) + space + member;
}

}  // namespace

extern "C" {

// Memory calls from inside uninstrumented libraries are no evidence of a race.
const char* __tsan_default_options() { return "ignore_noninstrumented_modules=1"; }

// gRPC frees the objects of a call in whichever thread lets go last. Only the innermost frame is matched, so
// that races in handlers called by gRPC are still reported. gRPC's own threads are joined in the background
// once its last user is gone: a program may end before that.
const char* __tsan_default_suppressions() {
  return "race_top:^grpc::\n"
         "race_top:^std::_Function_base::~_Function_base\n"
         "race_top:^std::_Function_base::_M_empty\n"       // a batch's callback, set in one thread of gRPC
         "race_top:^std::function<void ()>::operator()\n"  // and called in another
         "race:^grpc::internal::CallbackWithSuccessTag::Clear\n"  // nothing of ours runs below it
         "thread:^grpc_core::Thread::Thread\n";
}

}  // extern "C"

// Members of abseil's classes are called through plain functions that take `this` first.
namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static auto* const real = Real<void(Mutex*)>(AbslSymbol("5Mutex4LockEv"));
  real(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static auto* const real = Real<void(Mutex*)>(AbslSymbol("5Mutex6UnlockEv"));
  __tsan_release(this);
  real(this);
}

bool Mutex::TryLock() {
  static auto* const real = Real<bool(Mutex*)>(AbslSymbol("5Mutex7TryLockEv"));
  const bool locked = real(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void CondVar::Wait(Mutex* mutex) {
  static auto* const real = Real<void(CondVar*, Mutex*)>(AbslSymbol("7CondVar4WaitEPNS0_5MutexE"));
  __tsan_release(mutex);
  real(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static auto* const real = Real<bool(CondVar*, Mutex*, Duration)>(
      AbslSymbol("7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE"));
  __tsan_release(mutex);
  const bool timed_out = real(this, mutex, timeout);
  __tsan_acquire(mutex);
  return timed_out;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  static auto* const real =
      Real<bool(CondVar*, Mutex*, Time)>(AbslSymbol("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE"));
  __tsan_release(mutex);
  const bool timed_out = real(this, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

ABSL_NAMESPACE_END
}  // namespace absl

// A call that is cancelled while its handler still runs: the handler's thread counts down when it has made
// the reactor, and the thread that saw the cancellation, inside the library, goes on to OnCancel.
namespace grpc::internal {

void ServerCallbackCall::CallOnCancel(ServerReactor* reactor) {
  static auto* const real = Real<void(ServerCallbackCall*, ServerReactor*)>(
      "_ZN4grpc8internal18ServerCallbackCall12CallOnCancelEPNS0_13ServerReactorE");
  __tsan_acquire(&on_cancel_conditions_remaining_);
  real(this, reactor);
}

}  // namespace grpc::internal

// An operation's tag goes from the thread that starts it to the one that takes its completion.
extern "C" {

grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t count, void* tag,
                                      void* reserved) {
  static auto* const real = Real<decltype(grpc_call_start_batch)>("grpc_call_start_batch");
  __tsan_release(tag);
  return real(call, ops, count, tag, reserved);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline, void* reserved) {
  static auto* const real = Real<decltype(grpc_completion_queue_next)>("grpc_completion_queue_next");
  const grpc_event event = real(queue, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag, gpr_timespec deadline,
                                       void* reserved) {
  static auto* const real = Real<decltype(grpc_completion_queue_pluck)>("grpc_completion_queue_pluck");
  const grpc_event event = real(queue, tag, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(tag);
  return event;
}

}  // extern "C"
