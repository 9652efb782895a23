// For kernels_*.cpp only: everything has internal linkage.
#pragma once

// GemmRows, by the tiles that the instruction set has.
#include "kernels/cpu/isa/register_tiles.h"
#if defined(ESPALIER_AMX_UNIT)
#include "kernels/cpu/isa/amx_tiles.h"
#endif
