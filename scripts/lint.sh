#!/usr/bin/env bash
# clang-format, the include direction and clang-tidy.
#
#   scripts/lint.sh [--format-only] [--all] [--build build/release]
#
# Format and includes: every tracked C++ file. clang-tidy: the .cpp files that differ from the last commit on the main
# branch (on main itself: from the commit before), or with --all every one; it needs the compile_commands.json of a
# configured and built tree. A tool that is not installed is named and left out: scripts/install_deps.sh --dev.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/stage.sh

build=build/release
all=false
tidy=true
while [ $# -gt 0 ]; do
  case "$1" in
    --format-only) tidy=false ;;
    --all) all=true ;;
    --build)
      build=${2:?--build needs a folder}
      shift
      ;;
    *)
      echo "usage: $0 [--format-only] [--all] [--build folder]" >&2
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

if $tidy; then
  clang_tidy=$(find_tool clang-tidy)
  if [ ! -f "$build/compile_commands.json" ]; then
    echo "lint.sh: no $build/compile_commands.json: run scripts/build.sh first" >&2
    failed=1
  elif [ -n "$clang_tidy" ]; then
    # Only files that this configuration compiles; generated headers must exist, so build first.
    mapfile -t sources < <(changed_sources | while read -r file; do
      if grep -qF "\"file\": \"$PWD/$file\"" "$build/compile_commands.json"; then echo "$file"; fi
    done)
    stage "clang-tidy: ${#sources[@]} files"
    if [ ${#sources[@]} -gt 0 ]; then
      printf '%s\0' "${sources[@]}" |
        xargs -0 -n 1 -P "$(nproc)" "$clang_tidy" --quiet -p "$build" 2> >(grep -v 'warnings\? generated\|^Suppressed' >&2) ||
        failed=1
    fi
  fi
fi

if [ "$failed" -ne 0 ]; then
  stage "lint: faults found"
  exit 1
fi
stage "lint: clean"
