# Sourced by the other scripts: progress lines with the seconds since the first of them started.
: "${ESPALIER_STARTED_AT:=$(date +%s)}"
export ESPALIER_STARTED_AT # Scripts called by this one go on counting.

stage() {
  printf '[%4d s] %s\n' "$(($(date +%s) - ESPALIER_STARTED_AT))" "$*"
}
