#!/usr/bin/env bash
# Prints the packages that hold the shared libraries of programs, one a line.
#
#   scripts/runtime_packages.sh <program> ...
#
# Libraries below /usr/local belong to no package (a CUDA toolkit comes with the image) and are left out.
set -euo pipefail

libraries=$(ldd "$@" | awk '$2 == "=>" {print $3 == "not" ? "missing:" $1 : $3}' | sort -u)
if missing=$(grep '^missing:' <<<"$libraries"); then
  echo "runtime_packages.sh: not found: ${missing//missing:/}" >&2
  exit 1
fi
while read -r library; do
  file=$(realpath "$library")
  case "$file" in /usr/local/*) continue ;; esac
  # With /lib a link to /usr/lib, a package may know its file by either name.
  dpkg-query -S "$file" 2>/dev/null || dpkg-query -S "${file#/usr}"
done <<<"$libraries" | sed 's/: .*//' | sort -u
