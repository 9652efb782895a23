"""What the tables have in common: flags, and what was measured where."""

import os
import pathlib
import platform
import shlex
import subprocess
import sys
import zlib

from . import problems

ROOT = pathlib.Path(__file__).resolve().parents[2]


def add_arguments(parser):
    parser.add_argument("--problems", type=int, default=500, help="of each task [%(default)s]")
    parser.add_argument("--tasks", nargs="+", default=list(problems.TASKS), choices=list(problems.TASKS))
    parser.add_argument("--seed", type=int, default=1, help="of problems and samples [%(default)s]")
    parser.add_argument("--jobs", type=int, default=4, help="requests under way at a time [%(default)s]")
    parser.add_argument(
        "--programs", type=pathlib.Path, default=ROOT / "build/release/bin", help="folder of the programs"
    )
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "model/demo", help="model folder")
    parser.add_argument(
        "--half",
        choices=(problems.MEASURE, problems.TUNE),
        default=problems.MEASURE,
        help="of the unseen problems: the one for figures, or the one that shapes of trees are chosen on [%(default)s]",
    )


def checked(parser, args, *counts):
    """`args`, of which each of `counts` is at least 1."""
    for name in counts:
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: must be at least 1")
    return args


def commit():
    def git(*arguments):
        run = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
        return run.stdout.strip() if run.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/bench/results")
    return (git("rev-parse", "HEAD") or "unknown") + ("-modified" if changed else "")


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def facts(args, schema):
    weights = (args.model / "model.safetensors").read_bytes()
    return {
        "schema": schema,
        "commit": commit(),
        "command": shlex.join([f"scripts/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": {"cpu": processor(), "cores": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()[0]},
        "weights_crc32": f"{zlib.crc32(weights):08x}",
        "problems": args.problems,
        "half": args.half,
        "seed": args.seed,
    }


def head(known, types):
    """Of a table; `types`: of the servers' weights."""
    machine = known["machine"]
    return (
        f"machine  {machine['cpu']}, {machine['cores']} cores, load {machine['load_average']:.1f} before the run\n"
        f"commit   {known['commit']}, weights {known['weights_crc32']} (CRC-32) in {' and '.join(types)}\n"
        f"command  {known['command']}\n"
        f"work     {known['problems']} unseen problems of each task (half '{known['half']}'), seed {known['seed']}; "
        "tokens: generated ones and verdicts, of a problem\n\n"
    )
