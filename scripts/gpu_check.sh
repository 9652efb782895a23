#!/usr/bin/env bash
# Everything that only a GPU can show, in one command on a bare machine with one: the gpu tests, the device's ceilings,
# the benchmarks, the sanitizers. Every step runs under a time-out, all of it within 8 minutes; what was left out, and
# why, stands in the report next to what ran.
#
#   scripts/gpu_check.sh [--out DIR] [--bin DIR] [--only STEP,...]   on the machine with the GPU
#   scripts/gpu_check.sh --stage DIR                                 on a build machine: fills DIR with programs to carry
#   scripts/gpu_check.sh --stand-alone PROGRAM...                    whether programs need no library but glibc's
#
# --out: where report.txt, report.json and logs.tar.gz go (build/gpu_check).
# --bin: a folder that --stage filled (the script's own, where it holds programs). Where they do not run, or there are
#        none, they are built here (CUDA toolkit, CMake, ninja) with the headers that --stage put next to them; without
#        those, only what needs none: the ceilings and, where Catch2 is installed, the tests of the kernels.
# Exit code: 0 all steps passed, 1 a step failed, was skipped or ran out of time, 2 wrong use, 3 no usable GPU (nothing
# is run).
set -uo pipefail
script_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$script_dir")
[ -f "$root/CMakeLists.txt" ] || root=$PWD
programs=(cuda_parity_test cuda_golden_test cuda_engine_test cuda_ceilings cuda_bench)

usage() {
  sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

out=$root/build/gpu_check
bin=$script_dir
only=""
stage_dir=""
lone=()
failed=0
while [ $# -gt 0 ]; do
  case "$1" in
    --out | --bin | --only | --stage)
      [ $# -ge 2 ] || usage
      case "$1" in
        --out) out=$2 ;;
        --bin) bin=$2 ;;
        --only) only=,$2, ;;
        --stage) stage_dir=$2 ;;
      esac
      shift 2
      ;;
    --stand-alone)
      shift
      lone=("$@")
      set --
      [ ${#lone[@]} -gt 0 ] || usage
      ;;
    *) usage ;;
  esac
done

# Names libraries beyond glibc that a program needs: a bare machine lacks them.
stands_alone() {
  local needed
  needed=$(ldd "$1" | awk '{print $1}' |
    grep -vE '^(linux-vdso|/lib64/ld-linux|libc\.so|libm\.so|libdl\.so|libpthread\.so|librt\.so)')
  [ -z "$needed" ] && return 0
  echo "gpu_check: $(basename "$1") needs: ${needed//$'\n'/ }" >&2
  return 1
}

# The libraries that are headers alone: where the programs do not run, they are built with these.
stage_headers() {
  local header
  mkdir -p "$stage_dir/include/catch2"
  for header in catch2/catch.hpp nlohmann CLI; do
    [ ! -e "/usr/include/$header" ] || cp -r "/usr/include/$header" "$stage_dir/include/$(dirname "$header")/"
  done
}

# Programs, stripped, that stand alone.
stage_programs() {
  mkdir -p "$stage_dir" || exit 1
  # shellcheck source=scripts/stage.sh
  source "$script_dir/stage.sh"
  "$script_dir/build.sh" release "${programs[@]}" || exit 1
  local program foreign=0
  for program in "${programs[@]}"; do
    strip -o "$stage_dir/$program" "$root/build/release/bin/$program" || exit 1
    stands_alone "$stage_dir/$program" || foreign=1
  done
  cp "${BASH_SOURCE[0]}" "$stage_dir/"
  stage_headers
  stage "staged $(du -sh "$stage_dir" | cut -f1) in $stage_dir"
  exit $foreign
}
[ -z "$stage_dir" ] || stage_programs
if [ ${#lone[@]} -gt 0 ]; then
  for program in "${lone[@]}"; do stands_alone "$program" || failed=1; done
  exit $failed
fi

mkdir -p "$out/logs" || exit 1
out=$(cd "$out" && pwd)
bin=$(cd "$bin" && pwd) || exit 2
rm -f "$out"/logs/*.log "$out"/*.json "$out"/report.txt "$out"/steps.tsv "$out"/logs.tar.gz
begin=$(date +%s)
budget=465
no_gpu=""
export ESPALIER_SOURCE_DIR=$root

wanted() {
  case "$only" in "" | *",$1,"*) ;; *) return 1 ;; esac
}

# leave_out NAME WHY: notes that a step did not run.
leave_out() {
  wanted "$1" || return 0
  printf '%s\tleft out: %s\t\t0\n' "$1" "$2" >>"$out/steps.tsv"
  printf '[%4d s] %-12s left out: %s\n' "$(($(date +%s) - begin))" "$1" "$2"
}

# step NAME SECONDS COMMAND...: runs it with its output in NAME.log; notes how it ended.
step() {
  local name=$1 limit=$2 code started left
  shift 2
  wanted "$name" || return 0
  if [ -n "$no_gpu" ]; then
    leave_out "$name" "$no_gpu"
    return 1
  fi
  left=$((budget - ($(date +%s) - begin)))
  if [ "$left" -lt 10 ]; then
    leave_out "$name" "no time was left"
    failed=1
    return 1
  fi
  [ "$limit" -le "$left" ] || limit=$left
  started=$(date +%s)
  timeout --kill-after=5 "$limit" "$@" >"$out/logs/$name.log" 2>&1
  code=$?
  local result=failed
  case $code in
    0) result=passed ;;
    77) result=skipped ;;
    124 | 137) result="out of time" ;;
  esac
  [ "$result" = passed ] || failed=1
  printf '%s\t%s\t%s\t%s\n' "$name" "$result" "$code" "$(($(date +%s) - started))" >>"$out/steps.tsv"
  printf '[%4d s] %-12s %s\n' "$(($(date +%s) - begin))" "$name" "$result"
  return $code
}

report() {
  python3 - "$out" "$1" <<'PYTHON'
import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])
report = {"gpu": sys.argv[2], "steps": []}
text = [f"GPU: {sys.argv[2]}", ""]
tables = []
steps = out / "steps.tsv"
for line in steps.read_text().splitlines() if steps.exists() else []:
    name, result, code, seconds = line.split("\t")
    entry = {"name": name, "result": result, "seconds": int(seconds)}
    report["steps"].append(entry)
    if not code:
        text.append(f"{name:12} {result}")
        continue
    log = (out / "logs" / f"{name}.log").read_text(errors="replace")
    # Tests that found no device say so, one line each.
    skipped = [row for row in log.splitlines() if row.startswith("skipped: ")]
    entry.update(exit_code=int(code), skipped_tests=len(skipped), tail=log[-4000:])
    text.append(f"{name:12} {result:12} {seconds:>4} s" + (f", {len(skipped)} tests skipped" if skipped else ""))
    if result != "passed":
        text += ["    " + row for row in log.splitlines()[-25:]]
    elif name in ("ceilings", "bulk_reads", "attention", "decode", "replay"):
        tables += ["", f"{name}:", log.strip()]
for path in [*sorted(out.glob("*.json")), *out.glob("logs/bulk_reads.log")]:
    try:
        report[path.stem] = json.loads(path.read_text())
    except ValueError:
        text.append(f"{path.name} is not JSON")
text += tables
(out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
(out / "report.txt").write_text("\n".join(text) + "\n")
PYTHON
}

# Where the programs carried along do not run: all of them, built here, or what can be without the headers.
build_here() {
  local build what=DEVICE
  [ -f "$bin/include/nlohmann/json.hpp" ] || [ -f /usr/include/nlohmann/json.hpp ] || what=KERNELS
  build=${TMPDIR:-/tmp}/espalier_gpu_check_${what,,} # left there: a build that ran out of time goes on in the next call
  step build 280 bash -c '
    cmake -S "$1" -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=Release -DESPALIER_CUDA=ON "-DESPALIER_$4_ONLY=ON" \
          "-DESPALIER_HEADERS_DIR=$3/include" && cmake --build "$2" --target espalier_tests_gpu -- -k 0' \
    _ "$root" "$build" "$bin" "$what"
  bin=$build/bin
}

export PATH=$PATH:/usr/local/cuda/bin:/usr/local/nvidia/bin
gpu=$(timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)
if [ -z "$gpu" ] && [ -e /dev/nvidia0 ]; then gpu=unknown; fi
if [ -z "$gpu" ]; then
  echo "gpu_check: no usable GPU here (nvidia-smi names none, there is no /dev/nvidia0): nothing is run" >&2
  no_gpu="no usable GPU"
fi
echo "GPU: ${gpu:-none}"
# The driver's library and cuBLASLt are loaded at run time; the latter comes with the toolkit or with PyTorch.
for folder in /usr/local/nvidia/lib64 /usr/local/cuda/lib64 \
  $(python3 -c 'import site, glob; print(*(f for s in site.getsitepackages() for f in glob.glob(s + "/nvidia/*/lib")))'); do
  export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done
[ -n "$no_gpu" ] || "$bin/cuda_parity_test" --help >/dev/null 2>&1 || build_here

# run NAME SECONDS PROGRAM ...: a step, where the program is there.
run() {
  local name=$1 limit=$2 program=$3
  shift 3
  if [ -z "$no_gpu" ] && [ ! -x "$bin/$program" ]; then
    leave_out "$name" "there is no $program in $bin"
    return 1
  fi
  step "$name" "$limit" "$bin/$program" "$@"
}

run ceilings 45 cuda_ceilings && cp "$out/logs/ceilings.log" "$out/ceilings.json"
run bulk_reads 30 cuda_ceilings bulk
run parity 110 cuda_parity_test -d yes
run golden 40 cuda_golden_test -d yes
run engine 40 cuda_engine_test -d yes

# bench NAME SECONDS ARGUMENTS...: a command of the benchmarks in all modes, compared with what the ceilings measured.
peak() {
  python3 - "$out" "$1" <<'PYTHON'
import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])
ceilings = json.loads((out / "ceilings.json").read_text())
if sys.argv[2] == "products":
    print(max(product["tflop_per_s"] for product in ceilings["products"]))
    sys.exit()
reads = ceilings["reads"]
try:
    bulk = json.loads((out / "logs" / "bulk_reads.log").read_text())["bulk_reads"]
    reads += bulk if isinstance(bulk, list) else []  # a text: not available on this device
except (OSError, ValueError):
    pass  # not measured
print(max([ceilings["copy_gb_per_s"]] + [read["gb_per_s"] for read in reads if read["from"] == "memory"]))
PYTHON
}
memory=$(peak memory 2>/dev/null)
products=$(peak products 2>/dev/null)
bench() {
  local name=$1 limit=$2
  shift 2
  if [ -z "$no_gpu" ] && [ -z "$memory$products" ]; then
    leave_out "$name" "the ceilings were not measured"
    return 1
  fi
  run "$name" "$limit" cuda_bench "$name" --backend cuda --modes all --peak-gb-per-s "$memory" \
    --peak-tflop-per-s "$products" --json-file "$out/$name.json" "$@"
}
bench attention 60 --layers 4 --repeats 5 --shapes-out "$out/shapes.json" --tree '1,10;4000,400' --tree '1,16,64;1024,256,32' \
  --tree '1,256;256,32' --tree '1,4,16,512;1024,256,128,32' --tree '1,1024;2048,32' --few-shot 1,20,50 --token-tree 64 --prefill 512
bench decode 60 --prompt-tokens 4000 --branches 1,20,50 --new-tokens 16 --repeats 1
bench replay 40 --few-shot 20 --tree '1,4,16;2048,128,128' --windows 2

# sanitize TOOL SECONDS: a few cases of every kernel; the tools make programs slower a hundredfold.
sanitize() {
  if [ -z "$no_gpu" ] && ! command -v compute-sanitizer >/dev/null; then
    leave_out "$1" "there is no compute-sanitizer"
    return 1
  fi
  step "$1" "$2" compute-sanitizer --tool "$1" --error-exitcode 1 "$bin/cuda_parity_test" \
    "Blocks are zeroed*,Logits*,Sampled tokens*,Prefill*,Normalisation*,SwiGLU*,Embedding*"
}
sanitize memcheck 45
sanitize racecheck 45
sanitize synccheck 30

report "${gpu:-none}"
tar -C "$out" -czf "$out/logs.tar.gz" logs && rm -r "$out/logs" "$out/steps.tsv"
echo "report: $out/report.txt, $out/report.json"
[ -z "$no_gpu" ] || exit 3
exit $failed
