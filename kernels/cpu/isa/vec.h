// For kernels_*.cpp only: everything has internal linkage.
#pragma once

// The vectors of the instruction set that is compiled: the file that puts its kernels together names one of
// the vec_*.h in ESPALIER_VEC.
#ifndef ESPALIER_VEC
#define ESPALIER_VEC "kernels/cpu/isa/vec_portable.h"
#endif
#include ESPALIER_VEC
