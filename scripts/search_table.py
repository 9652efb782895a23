#!/usr/bin/env python3
"""Measures, through the server, whether search pays: right answers of the demo model against tokens spent.

    scripts/search_table.py --out tests/bench/results

Problems are unseen in training (held out by hash) and checked exactly. Each is one request that holds all methods side
by side below the same prompt: greedy decoding, samples for best-of-n, and step-wise trees. Writes search-demo.txt,
search-demo.json and a plot for each task. Needs the built server and client and Python's standard library.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from search_demo import measure, problems, report, service, setting  # noqa: E402
from search_demo.methods import Plain, judged  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the table, its JSON and the plots")
    setting.add_arguments(parser)
    parser.add_argument("--cost-problems", type=int, default=50, help="asked one at a time, for costs [%(default)s]")
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--weights", choices=service.WEIGHTS, default="dtype", help="of the server [%(default)s]")
    server.add_argument("--server", help="HOST:PORT of a running server instead of one of its own")
    return setting.checked(parser, parser.parse_args(), "problems", "cost_problems", "jobs")


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


def main():
    args = parse_arguments()
    try:
        known = setting.facts(args, "espalier-search/1")
        args.out.mkdir(parents=True, exist_ok=True)
        with service.Service(args.programs, args.model, args.server, args.weights) as server:
            known["weights"] = server.model_facts()["weights"]
            known["tasks"] = {name: run_task(server, args, problems.TASKS[name]) for name in args.tasks}
    except (service.Failed, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    text = setting.head(known, [known["weights"]]) + "\n".join(
        report.task_text(name, result) for name, result in known["tasks"].items()
    )
    (args.out / "search-demo.txt").write_text(text, encoding="utf-8")
    (args.out / "search-demo.json").write_text(json.dumps(known) + "\n", encoding="utf-8")
    for name, result in known["tasks"].items():
        report.plot(args.out / f"search-{name}.svg", name, result["methods"], args.problems)
    print(text, end="")


if __name__ == "__main__":
    main()
