#pragma once

// Kernels' parts are put together at compile time: none is called.
#define ESPALIER_INLINE inline __attribute__((always_inline))
