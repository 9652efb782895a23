#!/usr/bin/env bash
# Builds the container image and uses it as it is meant to be used: read-only, without root, demo model, own model and
# own configuration by volume, load, a drain on SIGTERM. Needs docker or podman. Ends non-zero if anything fails.
#
#   scripts/container_test.sh [--image espalier:test] [--no-build] [build options, such as --build-arg CUDA=ON ...]
#
# What else this machine needs comes from the environment, each a list of options split at spaces:
#   ENGINE           docker or podman; default: the first that is there
#   ENGINE_OPTIONS   before the engine's command; podman as root without systemd: --cgroup-manager=cgroupfs
#   BUILD_OPTIONS    for the build; podman where namespaces are forbidden: --isolation=chroot --network=host
#   RUN_OPTIONS      for every run
#   CA_BUNDLE        file of certificates for the build, where a proxy has its own
#   BASE_FOLDER      root file system (debootstrap --variant=minbase) that is imported as the base image first; for
#                    machines that reach no registry
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/stage.sh

image=espalier:test
build=true
build_options=()
while [ $# -gt 0 ]; do
  case "$1" in
    --image)
      image=${2:?--image needs a name}
      shift
      ;;
    --no-build) build=false ;;
    *) build_options+=("$1") ;;
  esac
  shift
done

if [ -z "${ENGINE:-}" ]; then
  ENGINE=$(command -v docker || command -v podman || true)
  [ -n "$ENGINE" ] || { echo "container_test.sh: neither docker nor podman here" >&2; exit 1; }
fi
read -ra engine_options <<<"${ENGINE_OPTIONS:-}"
read -ra more_build_options <<<"${BUILD_OPTIONS:-}"
read -ra run_options <<<"${RUN_OPTIONS:-}"
engine() { "$ENGINE" "${engine_options[@]}" "$@"; }
now_ms() { date +%s%3N; }

work=$(mktemp -d)
container=espalier-test-$$
finish() {
  local code=$?
  if [ $code -ne 0 ] && engine inspect "$container" >/dev/null 2>&1; then
    echo "container test failed (exit code $code); the server's log:" >&2
    engine logs "$container" 2>&1 | tail -n 20 >&2 || true
  fi
  engine rm -f "$container" >/dev/null 2>&1 || true
  rm -rf "$work"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

fail() {
  echo "container_test.sh: $*" >&2
  exit 1
}

# expect_equal <what> <expected> <got>
expect_equal() {
  [ "$2" = "$3" ] || fail "$1: expected $2, got $3"
}

# log_has <pattern>: whether the container's log holds it. Read to its end: an early end of grep would end the engine
# by SIGPIPE, which pipefail would take for a log without it.
log_has() {
  engine logs "$container" 2>&1 | grep "$1" >/dev/null
}

build_image() {
  local base=docker.io/library/debian:bookworm-slim secret=()
  if [ -n "${BASE_FOLDER:-}" ]; then
    stage "importing $BASE_FOLDER as $base"
    tar -C "$BASE_FOLDER" -c . | engine import - "$base" >/dev/null 2>&1
  fi
  [ -z "${CA_BUNDLE:-}" ] || secret=(--secret "id=ca_bundle,src=$CA_BUNDLE")
  # Only podman's images of this format keep the health check; docker knows no other.
  case "$ENGINE" in *podman) build_options+=(--format docker) ;; esac
  stage "building $image"
  engine build "${more_build_options[@]}" "${secret[@]}" "${build_options[@]}" -t "$image" . 2>&1 | tee "$work/build.log" |
    grep --line-buffered -E '^(\[.*STEP|STEP|#[0-9]+ \[|\[ *[0-9]+ s\])' || {
    tail -n 40 "$work/build.log" >&2
    fail "the build failed; its last lines are above"
  }
}

# start [options of run ...] [-- arguments of the server ...]: sets $port; returns when the health check of the image
# passes.
start() {
  local options=() started address
  case "$ENGINE" in *podman) options+=(--read-only-tmpfs=false) ;; esac # Docker has no writable /tmp either.
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  [ $# -eq 0 ] || shift
  engine rm -f "$container" >/dev/null 2>&1 || true
  started=$(now_ms)
  engine run -d --name "$container" --read-only --cap-drop=ALL --security-opt=no-new-privileges \
    -p 127.0.0.1::50051 "${run_options[@]}" "${options[@]}" "$image" "$@" >/dev/null
  until engine exec "$container" espalier health >/dev/null 2>&1; do
    [ $(($(now_ms) - started)) -lt 60000 ] || fail "not serving after 60 s"
    [ "$(engine inspect -f '{{.State.Running}}' "$container")" = true ] || fail "the server ended"
    sleep 0.1
  done
  stage "serving $(($(now_ms) - started)) ms after the start of the container"
  address=$(engine port "$container" 50051)
  port=${address##*:}
}

# The client of the image, next to the server, through the published port.
client() {
  engine run --rm -i --read-only --network host "${run_options[@]}" -e NO_COLOR=1 --entrypoint espalier "$image" \
    --server "127.0.0.1:$port" "$@"
}

# stop_and_check_exit: SIGTERM; the server must end with code 0 and nothing live.
stop_and_check_exit() {
  local started
  started=$(now_ms)
  engine stop "$container" >/dev/null
  expect_equal "exit code after SIGTERM" 0 "$(engine inspect -f '{{.State.ExitCode}}' "$container")"
  log_has '0 blocks still live' || fail "the log reports no clean end"
  stage "SIGTERM: ended with code 0 after $(($(now_ms) - started)) ms: $(engine logs "$container" 2>&1 | tail -n 1 | sed 's/^[^ ]* //')"
}

health_check_of_engine() {
  case "$ENGINE" in
    *podman) engine healthcheck run "$container" ;;
    *)
      for _ in $(seq 60); do
        [ "$(engine inspect -f '{{.State.Health.Status}}' "$container")" != healthy ] || return 0
        sleep 0.5
      done
      return 1
      ;;
  esac
}

! $build || build_image
stage "image: $(($(engine image inspect -f '{{.Size}}' "$image") / 1000000)) MB, $(engine run --rm "${run_options[@]}" "$image" --version)"

stage "=== read-only, without root, the demo model"
start
health_check_of_engine || fail "the image's own health check fails"
expect_equal "user in the container" 65532 "$(engine exec "$container" id -u)"
for file in /new /tmp/new /models/demo/new /etc/espalier/server.json; do
  ! engine exec "$container" sh -c ": >>$file" 2>/dev/null || fail "$file can be written"
done
engine logs "$container" 2>&1 | sed -E 's/^[^ ]+ info +/         /'
stage "a search, by the client in the container"
engine exec "$container" espalier generate --tree /usr/share/espalier/trees/tree_of_thoughts.json | tail -n 4
stage "the same tree from outside, through port $port, and from a file of the host"
client generate --tree - <configs/trees/tree_of_thoughts.json | tail -n 2

stage "=== load: 8 clients, 25 requests each"
started=$(now_ms)
clients=()
for i in $(seq 8); do
  engine exec -i "$container" sh -c 'for j in $(seq 25); do
    espalier generate --json --prompt "list $1 $j gives" --branches 8 --max-new-tokens 16 --seed "$j" >/dev/null || exit 1
  done' load "$i" &
  clients+=($!)
done
for pid in "${clients[@]}"; do wait "$pid" || fail "a client of the load failed"; done
stage "200 requests in $(($(now_ms) - started)) ms, none failed"
finished=$(engine exec "$container" espalier stats --json | sed -E 's/.*"finished":"?([0-9]+).*/\1/')
expect_equal "requests finished" 202 "$finished"
! client stats >/dev/null 2>&1 || fail "AdminService can be reached from outside"
if [ -x build/release/bin/espalier-bench ]; then
  stage "=== load from outside: espalier-bench serve, mixed trees, 64 clients"
  start -p 127.0.0.1::50052 -- --admin-listen 0.0.0.0:50052
  build/release/bin/espalier-bench serve --server "127.0.0.1:$port" --admin "$(engine port "$container" 50052)" \
    --workload mixed --clients 64 --requests 400
fi

stage "=== SIGTERM while a tree grows"
# 400 steps, whatever the model samples.
client generate --json --tree - >"$work/drained.jsonl" <<'TREE' &
{"nodes": [{"id": "prompt", "given": {"text": "list 5 8 18 37 gives"}},
           {"id": "rest", "parent_id": "prompt",
            "generate": {"branches": 16, "max_new_tokens": 400, "ignore_eos": true}}]}
TREE
pid=$!
for _ in $(seq 200); do
  before=$(wc -l <"$work/drained.jsonl")
  [ "$before" -lt 10 ] || break
  sleep 0.05
done
stop_and_check_exit
wait "$pid" || fail "the client of the growing tree failed"
after=$(wc -l <"$work/drained.jsonl")
tail -n 1 "$work/drained.jsonl" | grep -q '"event":"finished"' || fail "the growing tree was not finished"
[ "$after" -gt $((before + 100)) ] || fail "the tree had ended before SIGTERM"
stage "the tree was finished: $before events had reached its client before SIGTERM, $after at the end"

stage "=== own model and own configuration by volume"
mkdir "$work/mine" "$work/configuration"
cp model/demo/{config.json,model.safetensors,tokenizer.model,tokenizer_config.json} "$work/mine/"
printf '{\n  "model": "/models/mine",\n  "listen": "0.0.0.0:50051",\n  "threads": 1,\n  "max_branches": 9\n}\n' \
  >"$work/configuration/server.json"
chmod -R a+rX "$work"
start -v "$work/mine:/models/mine:ro" -- --model /models/mine
client generate --prompt 'list 5 8 18 37 gives' --temperature 0 --max-new-tokens 12 | sed -n 2,3p
log_has 'model  *mine:' || fail "the log does not name the model of the volume"
stop_and_check_exit
start -v "$work/mine:/models/mine:ro" -v "$work/configuration/server.json:/etc/espalier/server.json:ro"
client generate --prompt 'list 5 8 18 37 gives' --branches 9 --max-new-tokens 12 >/dev/null
if client generate --prompt 'list 5 8 18 37 gives' --branches 10 --max-new-tokens 12 >"$work/refused" 2>&1; then
  fail "the mounted configuration is not in effect: 10 branches were grown, it allows 9"
fi
stage "10 branches, where the mounted file allows 9: $(tail -n 1 "$work/refused")"
stop_and_check_exit

stage "=== mistakes"
printf '{\n  "modle": "/models/demo",\n  "threads": "many"\n}\n' >"$work/configuration/server.json"
code=0
engine run --rm --read-only "${run_options[@]}" -v "$work/configuration/server.json:/etc/espalier/server.json:ro" \
  "$image" --model /models/none --check-config >"$work/mistakes" 2>&1 || code=$?
cat "$work/mistakes"
expect_equal "exit code of a wrong configuration" 2 "$code"
expect_equal "mistakes listed" 3 "$(grep -c '^error: ' "$work/mistakes")"

stage "done"
