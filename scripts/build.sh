#!/usr/bin/env bash
# Installs what is missing, configures and builds, with staged progress.
#
#   scripts/build.sh [preset] [-D<variable>=<value> ...] [target ...]
#
# preset: release (default), debug, asan or tsan; built into build/<preset>. Targets: all by default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/stage.sh

preset=release
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
  preset=$1
  shift
fi
definitions=()
targets=()
for argument in "$@"; do
  case "$argument" in
    -D*) definitions+=("$argument") ;;
    -*)
      echo "usage: $0 [preset] [-D<variable>=<value> ...] [target ...]" >&2
      exit 2
      ;;
    *) targets+=(--target "$argument") ;;
  esac
done

scripts/install_deps.sh

stage "configuring build/$preset"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cmake --preset "$preset" "${definitions[@]}" >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
grep -E '^-- CUDA backend|^CMake .*Warning' "$log" || true

# One line for each tenth of the build; whatever else ninja prints (warnings, errors) goes through.
show_progress() {
  local line tenth last=0
  while IFS= read -r line; do
    if [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
      tenth=$((10 * BASH_REMATCH[1] / BASH_REMATCH[2]))
      if [ "$tenth" -ne "$last" ]; then
        stage "building: ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]} steps"
        last=$tenth
      fi
    elif [ "$line" != "ninja: no work to do." ]; then
      printf '%s\n' "$line"
    fi
  done
}
cmake --build "build/$preset" --parallel "$(nproc)" "${targets[@]}" 2>&1 | show_progress
stage "built build/$preset"
