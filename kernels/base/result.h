#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <variant>

namespace espalier {

// Error codes shared by all folders; each maps to the gRPC status code of the same name.
enum class ErrorCode {
  kCancelled,
  kInvalidArgument,
  kResourceExhausted,
  kFailedPrecondition,
  kUnimplemented,
  kInternal,
  kUnavailable,
};

// What went wrong, as a value. `field` names the request field, flag or file at fault; empty where there is
// none.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string field;
  std::string message;

  // "field: message", or the message alone.
  std::string ToString() const { return field.empty() ? message : field + ": " + message; }
};

inline Error InvalidArgument(std::string field, std::string message) {
  return {ErrorCode::kInvalidArgument, std::move(field), std::move(message)};
}
inline Error InternalError(std::string message) { return {ErrorCode::kInternal, "", std::move(message)}; }

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition,
                                     const std::string& detail = {}) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%s\n", file, line, condition, detail.empty() ? "" : ": ",
               detail.c_str());
  std::abort();
}

// Aborts on a broken invariant. For mistakes of the program, never for mistakes of a user.
#define ESPALIER_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::espalier::CheckFailed(__FILE__, __LINE__, #condition))
#define ESPALIER_CHECK_MSG(condition, detail) \
  ((condition) ? static_cast<void>(0) : ::espalier::CheckFailed(__FILE__, __LINE__, #condition, (detail)))

// A value or an Error.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Precondition of the next five: ok().
  T& value() & { return Checked(); }
  const T& value() const& { return const_cast<Result*>(this)->Checked(); }
  T&& value() && { return std::move(Checked()); }
  T& operator*() { return Checked(); }
  T* operator->() { return &Checked(); }
  const T& operator*() const { return value(); }
  const T* operator->() const { return &value(); }

  // Precondition: !ok().
  const Error& error() const {
    ESPALIER_CHECK(!ok());
    return std::get<1>(state_);
  }

 private:
  T& Checked() {
    if (!ok()) CheckFailed(__FILE__, __LINE__, "Result holds a value", std::get<1>(state_).ToString());
    return std::get<0>(state_);
  }
  std::variant<T, Error> state_;
};

// Success or an Error. A default-constructed Status is success.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return error_.index() == 0; }
  explicit operator bool() const { return ok(); }
  // Precondition: !ok().
  const Error& error() const {
    ESPALIER_CHECK(!ok());
    return std::get<1>(error_);
  }

 private:
  std::variant<std::monostate, Error> error_;
};

}  // namespace espalier
