#!/usr/bin/env bash
# clang-format, includes, locks and clang-tidy.
#
#   scripts/lint.sh [--format-only | --no-tidy] [--all] [--build build/release]
#
# Format and includes: every tracked C++ file. Locks: clang's -Wthread-safety on the files that annotate what a mutex
# guards (kernels/base/mutex.h). clang-tidy: the .cpp files that differ from the last commit on the main
# branch (on main itself: from the commit before), or with --all every one. Both need the compile_commands.json of a
# configured and built tree. A tool that is not installed is named and left out: scripts/install_deps.sh --dev.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/stage.sh

build=build/release
all=false
locks=true
tidy=true
while [ $# -gt 0 ]; do
  case "$1" in
    --format-only) locks=false tidy=false ;;
    --no-tidy) tidy=false ;;
    --all) all=true ;;
    --build)
      build=${2:?--build needs a folder}
      shift
      ;;
    *)
      echo "usage: $0 [--format-only | --no-tidy] [--all] [--build folder]" >&2
      exit 2
      ;;
  esac
  shift
done

# The tool in version 14, which the configuration is written for; nothing when there is none.
find_tool() {
  local tool
  for tool in "$1-14" "$1"; do
    if command -v "$tool" >/dev/null && "$tool" --version | grep -q 'version 14\.'; then
      echo "$tool"
      return
    fi
  done
  echo "lint.sh: no $1 14 here, that check is left out (scripts/install_deps.sh --dev)" >&2
}

cpp=('*.h' '*.cpp' '*.cu' '*.cuh')
failed=0

stage "clang-format"
clang_format=$(find_tool clang-format)
if [ -n "$clang_format" ]; then
  git ls-files -z -- "${cpp[@]}" | xargs -0 --no-run-if-empty "$clang_format" --dry-run -Werror || failed=1
fi

stage "include direction"
scripts/check_includes.py || failed=1

stage "headers of instruction sets, each alone"
scripts/check_isa_headers.sh || failed=1

changed_sources() {
  local base
  if $all; then
    git ls-files -- '*.cpp'
    return
  fi
  base=$(git merge-base HEAD main 2>/dev/null || git rev-parse HEAD)
  if [ "$base" = "$(git rev-parse HEAD)" ]; then
    base=$(git rev-parse --verify --quiet HEAD~1 || echo HEAD)
  fi
  git diff --name-only --diff-filter=d "$base" -- '*.cpp'
}

# The .cpp files that annotate locks, or whose header does.
locking_sources() {
  local file
  git grep -lE 'ESPALIER_(GUARDED_BY|REQUIRES)\(' -- '*.h' '*.cpp' | while read -r file; do
    [ ! -f "${file%.h}.cpp" ] || echo "${file%.h}.cpp"
    [[ $file == *.h ]] || echo "$file"
  done | sort -u
}

# run_tidy <name> <files, one a line> [clang-tidy's arguments ...]: only files that this configuration compiles.
# Generated headers must exist, so build first.
run_tidy() {
  local name=$1 files=$2 sources
  shift 2
  mapfile -t sources < <(echo "$files" | while read -r file; do
    if grep -qF "\"file\": \"$PWD/$file\"" "$build/compile_commands.json"; then echo "$file"; fi
  done)
  stage "$name: ${#sources[@]} files"
  [ ${#sources[@]} -gt 0 ] || return 0
  printf '%s\0' "${sources[@]}" |
    xargs -0 -n 1 -P "$(nproc)" "$clang_tidy" --quiet -p "$build" "$@" 2> >(grep -v 'warnings\? generated\|^Suppressed' >&2)
}

if $locks || $tidy; then
  clang_tidy=$(find_tool clang-tidy)
  if [ ! -f "$build/compile_commands.json" ]; then
    echo "lint.sh: no $build/compile_commands.json: run scripts/build.sh first" >&2
    failed=1
  elif [ -n "$clang_tidy" ]; then
    # clang-tidy wants a check of its own too, not only the compiler's warnings: a cheap one.
    run_tidy locks "$(locking_sources)" --extra-arg=-Wthread-safety --warnings-as-errors='*' \
      --checks='-*,clang-diagnostic-thread-safety*,performance-noexcept-move-constructor' || failed=1
    if $tidy; then run_tidy clang-tidy "$(changed_sources)" || failed=1; fi
  fi
fi

if [ "$failed" -ne 0 ]; then
  stage "lint: faults found"
  exit 1
fi
stage "lint: clean"
