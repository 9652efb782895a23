#!/usr/bin/env bash
# Loads a server with the demo model and the default settings: 1, 8, 64 and 512 clients times three workloads, then
# Poisson arrivals up to and beyond what it can take. Fails if anything is lost, wrong or left behind, or if a request
# ends with an error other than RESOURCE_EXHAUSTED. Writes a table, JSON and plots. Takes about five minutes.
#
#   scripts/load_test.sh [--out FOLDER] [--name NAME] [--seconds N] [--server PROGRAM] [--config FILE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/stage.sh

out=build/load_test
name=serve-demo
seconds=8
server=
config=configs/server.json
while [ $# -gt 0 ]; do
  case $1 in
    --out | --name | --seconds | --server | --config)
      [ $# -ge 2 ] || { echo "error: $1: needs a value" >&2; exit 2; }
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: $1: unknown (--out, --name, --seconds, --server, --config)" >&2; exit 2 ;;
  esac
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "error: --seconds: must be a positive integer, got '$seconds'" >&2; exit 2; }

if [ -z "$server" ]; then
  scripts/build.sh release espalier-server espalier-bench
  server=build/release/bin/espalier-server
fi
work=$(mktemp -d)
server_pid=
finish() {
  local code=$?
  if [ -n "$server_pid" ] && kill -TERM "$server_pid" 2>/dev/null; then
    wait "$server_pid" || true
  fi
  [ $code -eq 0 ] || { echo "load test failed (exit code $code). The server's log:" >&2; tail -n 20 "$work/log" >&2 || true; }
  rm -rf "$work"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

stage "starting the server"
"$server" --config "$config" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --port-file "$work/port" 2>"$work/log" &
server_pid=$!
for _ in $(seq 300); do
  [ ! -s "$work/port" ] || break
  kill -0 "$server_pid" 2>/dev/null || wait "$server_pid"
  sleep 0.1
done
[ -s "$work/port" ] || { echo "the server did not start within 30 s" >&2; exit 1; }
ESPALIER_SERVER=127.0.0.1:$(cat "$work/port")
export ESPALIER_SERVER
bench=build/release/bin/espalier-bench
mkdir -p "$out"

stage "closed loop: 1, 8, 64, 512 clients"
"$bench" serve --workload few-shot,multi-step,mixed --clients 1,8,64,512 --duration "$seconds" --flush-cache \
  --server-pid $server_pid --json-file "$work/closed.json" >"$work/closed.txt"
cat "$work/closed.txt"

stage "open loop: Poisson arrivals, mixed workload"
"$bench" serve --workload mixed --rate "$(python3 scripts/load_test_report.py rates "$work/closed.json")" \
  --duration "$seconds" --flush-cache --seed 2 --server-pid $server_pid --json-file "$work/open.json" >"$work/open.txt"
cat "$work/open.txt"

stage "memory of the server, and what it says"
grep -E '^(VmHWM|VmRSS|Threads)' "/proc/$server_pid/status"
python3 scripts/load_test_report.py report "$work/closed.json" "$work/open.json" --to "$out/$name"
{ cat "$work/closed.txt"; echo; cat "$work/open.txt"; } >"$out/$name.txt"
cat "$work/closed.json" "$work/open.json" >"$out/$name.json"
echo "written: $out/$name.txt, .json, and plots next to them"
