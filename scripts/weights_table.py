#!/usr/bin/env python3
"""Measures, through two servers, what int8 weights cost: right answers of the demo model compared with those with its own.

    scripts/weights_table.py --out tests/bench/results

Greedy decoding and the trees of scripts/search_table.py, the same problems and seeds with weights of either type.
Writes weights-demo.txt and weights-demo.json. Needs the built server and client and Python's standard library.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from search_demo import measure, problems, report, service, setting  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the table and its JSON")
    setting.add_arguments(parser)
    return setting.checked(parser, parser.parse_args(), "problems", "jobs")


def outcomes(args, server):
    """Of each task."""
    found = []
    for task in (problems.TASKS[name] for name in args.tasks):
        chosen = task.problems(args.problems, args.half, args.seed)
        found.append(measure.measure(server, task, chosen, args.seed, args.jobs, best_of_n=False))
    return found


def main():
    args = parse_arguments()
    try:
        known = setting.facts(args, "espalier-weights/1")
        args.out.mkdir(parents=True, exist_ok=True)
        known["weights"], found = [], []
        for weights in service.WEIGHTS:
            with service.Service(args.programs, args.model, weights=weights) as server:
                known["weights"].append(server.model_facts()["weights"])
                found.append(outcomes(args, server))
    except (service.Failed, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    known["tasks"] = {name: report.weight_pairs(*pair) for name, *pair in zip(args.tasks, *found)}
    tables = (report.weights_text(name, rows, known["weights"]) for name, rows in known["tasks"].items())
    text = setting.head(known, known["weights"]) + "\n".join(tables)
    (args.out / "weights-demo.txt").write_text(text, encoding="utf-8")
    (args.out / "weights-demo.json").write_text(json.dumps(known) + "\n", encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
