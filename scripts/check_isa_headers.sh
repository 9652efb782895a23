#!/usr/bin/env bash
# Whether each header of kernels/cpu/isa compiles alone, as for the instruction set that uses them all: AMX, emulated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "$(uname -m)" != x86_64 ]; then
  echo "check_isa_headers.sh: not an x86 processor, that check is left out" >&2
  exit 0
fi
flags=(-std=c++20 -I. -fsyntax-only -w
  -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mavx512vnni
  '-DESPALIER_VEC="kernels/cpu/isa/vec_avx512.h"'
  '-DESPALIER_AMX_UNIT="kernels/cpu/isa/amx_unit_emulated.h"')
printf '%s\0' kernels/cpu/isa/*.h |
  xargs -0 -P "$(nproc)" -I{} "${CXX:-c++}" "${flags[@]}" -x c++ /dev/null -include {}
