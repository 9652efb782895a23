#!/usr/bin/env python3
"""Measures, through the server, whether search pays: right answers of the demo model against tokens spent.

    scripts/search_table.py --out tests/bench/results

Problems are unseen in training (held out by hash) and checked exactly. Each is one request that holds all methods side
by side below the same prompt: greedy decoding, samples for best-of-n, and step-wise trees. Writes search-demo.txt,
search-demo.json and a plot for each task. Needs the built server and client and Python's standard library.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from search_demo import measure, problems, report, service  # noqa: E402
from search_demo.methods import Plain, judged  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the table, its JSON and the plots")
    parser.add_argument("--problems", type=int, default=500, help="of each task [%(default)s]")
    parser.add_argument("--cost-problems", type=int, default=50, help="asked one at a time, for costs [%(default)s]")
    parser.add_argument("--tasks", nargs="+", default=list(problems.TASKS), choices=list(problems.TASKS))
    parser.add_argument("--seed", type=int, default=1, help="of problems and draws [%(default)s]")
    parser.add_argument("--jobs", type=int, default=4, help="requests under way at a time [%(default)s]")
    parser.add_argument(
        "--programs", type=pathlib.Path, default=ROOT / "build/release/bin", help="folder of the programs"
    )
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "model/demo", help="model folder")
    parser.add_argument("--server", help="HOST:PORT of a running server instead of one of its own")
    parser.add_argument(
        "--half",
        choices=(problems.MEASURE, problems.TUNE),
        default=problems.MEASURE,
        help="of the unseen problems: the one for figures, or the one that shapes of trees are chosen on [%(default)s]",
    )
    args = parser.parse_args()
    for name in ("problems", "cost_problems", "jobs"):
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


def facts(args):
    weights = (args.model / "model.safetensors").read_bytes()
    return {
        "schema": "espalier-search/1",
        "commit": commit(),
        "command": shlex.join([f"scripts/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": {"cpu": processor(), "cores": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()[0]},
        "weights_crc32": f"{zlib.crc32(weights):08x}",
        "problems": args.problems,
        "half": args.half,
        "seed": args.seed,
    }


def cost_ways(outcomes, task):
    """What is asked alone: greedy decoding, some trees, and best-of-n at the tokens of the beam-like one."""
    beam = next(outcome for outcome in outcomes if outcome.kind == "beam")
    asked = measure.ways(task)
    ways = [("greedy", asked["greedy"]), (f"tree {asked['beam'].shape()}", asked["beam"])]
    ways += [(f"tree {tree.shape()}", tree) for tree in asked["trees"][2:-1:2]]
    for kind, make in (("sum of verdicts", judged), ("mean log-probability", Plain)):
        rival = report.rival(outcomes, kind, beam.tokens)
        if rival is not None:
            ways.append((f"best of {rival.n}, {kind}", make("best", rival.n)))
    return ways


def run_task(server, args, task):
    chosen = task.problems(args.problems, args.half, args.seed)
    outcomes = measure.measure(server, task, chosen, args.seed, args.jobs)
    few = chosen[: args.cost_problems]
    return {
        "methods": report.rows(outcomes),
        "pairs": report.pairs(outcomes),
        "cost_problems": len(few),
        "costs": measure.costs(server, task, few, args.seed, cost_ways(outcomes, task)),
    }


def head(known):
    machine = known["machine"]
    return (
        f"machine  {machine['cpu']}, {machine['cores']} cores, load {machine['load_average']:.1f} before the run\n"
        f"commit   {known['commit']}, weights {known['weights_crc32']} (CRC-32)\n"
        f"command  {known['command']}\n"
        f"work     {known['problems']} unseen problems of each task (half '{known['half']}'), seed {known['seed']}; tokens: generated ones and "
        "verdicts, of a problem\n\n"
    )


def main():
    args = parse_arguments()
    try:
        known = facts(args)
        args.out.mkdir(parents=True, exist_ok=True)
        with service.Service(args.programs, args.model, args.server) as server:
            known["tasks"] = {name: run_task(server, args, problems.TASKS[name]) for name in args.tasks}
    except (service.Failed, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    text = head(known) + "\n".join(report.task_text(name, result) for name, result in known["tasks"].items())
    (args.out / "search-demo.txt").write_text(text, encoding="utf-8")
    (args.out / "search-demo.json").write_text(json.dumps(known) + "\n", encoding="utf-8")
    for name, result in known["tasks"].items():
        report.plot(args.out / f"search-{name}.svg", name, result["methods"], args.problems)
    print(text, end="")


if __name__ == "__main__":
    main()
