#pragma once

namespace espalier::test {

// Whether a sanitizer that makes programs several times as slow is built in. Loops over many random cases,
// which look for wrong values, take fewer of them then: faults of memory show in the first ones.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace espalier::test
