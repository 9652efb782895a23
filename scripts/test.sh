#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests through CTest.
#
#   scripts/test.sh [--preset release] [--only <label>,...] [-D<variable>=<value> ...] [ctest arguments ...]
#
# --only: build and run the tests of these labels alone (kernels, model, engine, server, bench, support; threads: those for
# ThreadSanitizer).
# Tests on reference data outside the repository take its folder from ESPALIER_SHARED_DIR (default: ../shared where
# that exists) and are skipped without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/stage.sh

preset=release
build_arguments=()
ctest_arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --preset | --only)
      if [ $# -lt 2 ]; then
        echo "test.sh: $1 needs a value" >&2
        exit 2
      fi
      if [ "$1" = --preset ]; then
        preset=$2
      else
        for label in ${2//,/ }; do build_arguments+=("espalier_tests_$label"); done
        ctest_arguments+=(-L "^(${2//,/|})\$")
      fi
      shift 2
      ;;
    -D?*=*)
      build_arguments+=("$1")
      shift
      ;;
    *)
      ctest_arguments+=("$1")
      shift
      ;;
  esac
done

if [ -z "${ESPALIER_SHARED_DIR:-}" ] && [ -d ../shared ]; then
  ESPALIER_SHARED_DIR=$(cd ../shared && pwd)
  export ESPALIER_SHARED_DIR
fi

scripts/build.sh "$preset" "${build_arguments[@]}"

stage "testing build/$preset (reference data: ${ESPALIER_SHARED_DIR:-none, ESPALIER_SHARED_DIR is not set})"
ctest --test-dir "build/$preset" --output-on-failure --no-tests=error --parallel "$(nproc)" "${ctest_arguments[@]}"
