#!/usr/bin/env bash
# Installs what the build needs and is missing, with apt-get. Debian 12 and Ubuntu 24.04.
#
#   scripts/install_deps.sh [--dev]
#
# --dev: also what scripts/lint.sh needs. Does nothing, in milliseconds, when all is there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

packages=(
  g++ cmake ninja-build pkg-config ccache git ca-certificates
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  zlib1g-dev nlohmann-json3-dev libspdlog-dev libcli11-dev libpcre2-dev libutf8proc-dev catch2
  python3 python3-pip # Fetch SentencePiece's source; check the include direction.
)
case "${1:-}" in
  "") ;;
  --dev) packages+=(clang-format-14 clang-tidy-14) ;; # One version: others format differently.
  *)
    echo "usage: $0 [--dev]" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install_deps.sh: no apt-get here (Debian 12 and Ubuntu 24.04 are supported). Needed: ${packages[*]}" >&2
  exit 1
fi

installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
  grep -qxF "installed $package" <<<"$installed" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps.sh: neither root nor sudo. As root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1; then
    echo "install_deps.sh: failed: $*" >&2
    cat "$log" >&2
    return 1
  fi
}
stage "installing ${missing[*]}"
quietly apt-get -qq update
quietly apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "${missing[@]}"
