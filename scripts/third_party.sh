#!/usr/bin/env bash
# Fetches the sources that no Debian package holds, at pinned versions and hashes, and unpacks them.
#
#   scripts/third_party.sh [folder]
#
# folder: where they go; default $ESPALIER_THIRD_PARTY_DIR, then build/third_party. A source that is there already is
# left alone and nothing is downloaded. Prints the folder of SentencePiece's source package; progress goes to stderr.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-${ESPALIER_THIRD_PARTY_DIR:-$root/build/third_party}}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# PyPI's source package holds the whole C++ source.
name=sentencepiece-0.2.1
requirement='sentencepiece==0.2.1 --hash=sha256:8138cec27c2f2282f4a34d9a016e3374cd40e5c6e9cb335063db66a0a3b71fad'

find_pip() {
  local python
  for python in /usr/bin/python3 python3; do
    if "$python" -m pip --version >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
  echo "third_party.sh: python3 with pip is needed to fetch $name (Debian: python3-pip)" >&2
  return 1
}

if [ ! -f "$folder/$name/sentencepiece/CMakeLists.txt" ]; then
  python=$(find_pip)
  echo "fetching $name into $folder" >&2
  scratch=$(mktemp -d "$folder/.fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  echo "$requirement" >"$scratch/requirements.txt"
  # pip asks a source package for its metadata by running its setup.py; with setuptools at hand it fetches no other.
  isolation=()
  if "$python" -c 'import setuptools, wheel' 2>/dev/null; then isolation=(--no-build-isolation); fi
  "$python" -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps "${isolation[@]}" \
    --no-binary sentencepiece --require-hashes -r "$scratch/requirements.txt" -d "$scratch" >&2
  tar -xzf "$scratch/$name.tar.gz" -C "$scratch" --no-same-owner
  # A rename, so that a folder with this name is always complete; another process may have been faster.
  mv -T "$scratch/$name" "$folder/$name" 2>/dev/null || [ -f "$folder/$name/sentencepiece/CMakeLists.txt" ]
fi
echo "$folder/$name"
