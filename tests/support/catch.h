#pragma once

// Catch2 v3 (Ubuntu 24.04) or v2 (Debian 12): the macros used here are the same in both.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#define ESPALIER_CATCH2_V3 1
using Catch::Approx;  // as version 2 has it
#else
#include <catch2/catch.hpp>
#define ESPALIER_CATCH2_V3 0
#endif
