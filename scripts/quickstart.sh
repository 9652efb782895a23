#!/usr/bin/env bash
# The main job, from nothing: installs what is missing, builds, starts the server with the demo model on a free port, and
# grows two trees: many answers to one long prompt, and a search that checks itself. Ends non-zero if anything fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/stage.sh

scripts/build.sh release espalier-server espalier
bin=build/release/bin
work=$(mktemp -d)
server_pid=

finish() {
  local code=$?
  if [ -n "$server_pid" ] && kill -TERM "$server_pid" 2>/dev/null; then
    wait "$server_pid" || true
  fi
  if [ $code -ne 0 ]; then
    echo "quickstart failed (exit code $code)." >&2
    [ ! -s "$work/server.log" ] || { echo "The server's log:" >&2; tail -n 20 "$work/server.log" >&2; }
  fi
  rm -rf "$work"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

stage "starting the server"
"$bin/espalier-server" --model model/demo --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --port-file "$work/port" \
  2>"$work/server.log" &
server_pid=$!
for _ in $(seq 300); do
  [ ! -s "$work/port" ] || break
  kill -0 "$server_pid" 2>/dev/null || { wait "$server_pid"; }
  sleep 0.1
done
if [ ! -s "$work/port" ]; then
  echo "the server did not start within 30 s" >&2
  exit 1
fi
sed -E 's/^[^ ]+ info +/         /' "$work/server.log"
ESPALIER_SERVER=127.0.0.1:$(cat "$work/port")
export ESPALIER_SERVER

stage "a few-shot tree: one long prompt, 16 answers side by side"
"$bin/espalier" generate --tree configs/trees/few_shot.json --record "$work/cold.jsonl"

stage "the same request again: its prompt is in the cache now"
"$bin/espalier" generate --tree configs/trees/few_shot.json --record "$work/warm.jsonl" >"$work/warm.txt"
python3 scripts/quickstart_check.py cache "$work/cold.jsonl" "$work/warm.jsonl"

stage "a multi-step tree: propose steps, let the model judge each, keep the best, go on"
"$bin/espalier" generate --tree configs/trees/tree_of_thoughts.json --record "$work/search.jsonl"
"$bin/espalier" generate --tree configs/trees/greedy.json --record "$work/greedy.jsonl" >"$work/greedy.txt"
python3 scripts/quickstart_check.py search configs/trees/tree_of_thoughts.json "$work/search.jsonl" "$work/greedy.jsonl"

"$bin/espalier" stats --json >"$work/stats.json"
python3 scripts/quickstart_check.py stats "$work/stats.json"

stage "done"
cat <<'NEXT'

Try next:
  build/release/bin/espalier-server --model model/demo                     # serves at 127.0.0.1:50051
  build/release/bin/espalier generate --tree configs/trees/tree_of_thoughts.json  # in another terminal; edit the file
  build/release/bin/espalier generate --prompt $'numbers 5 8 12 12 target 24\n' --branches 8 --stop $'\n\n'
NEXT
