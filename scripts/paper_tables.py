#!/usr/bin/env python3
"""Measures the workloads of the DeFT paper: tree attention against reading each branch's path, alone and end to end.

    git clone https://github.com/LINs-lab/DeFT
    scripts/paper_tables.py --out tests/bench/results --name paper-PROCESSOR --workloads DeFT

The clone holds the trees that the paper's authors recorded, in dataset/generation: sorting128ToT.json, docmergeToT.json,
APPS_tree_size32.json and APPS_tree_size64.json. Any folder with these files will do; without one, few-shot and made
token trees are measured only. Each piece is one call of espalier-bench, both modes side by side. Writes NAME.txt,
NAME.json and two plots. Needs Python's standard library alone.
"""

import argparse
import json
import pathlib
import re
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from paper import pieces, report  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the table, its JSON and the plots")
    parser.add_argument("--name", default="paper", help="of the files [%(default)s]")
    parser.add_argument("--workloads", type=pathlib.Path, help="folder that holds the recorded trees, at any depth")
    parser.add_argument("--bench", type=pathlib.Path, default=ROOT / "build/release/bin/espalier-bench")
    parser.add_argument("--heads", nargs="+", default=["32/8", "32/32"], help="query / KV heads [%(default)s]")
    parser.add_argument("--head-dim", type=int, default=128, help="[%(default)s]")
    parser.add_argument("--shape-heads", default="8/2", help="of the published kernel shapes [%(default)s]")
    parser.add_argument("--attention-layers", type=int, default=4, help="that take turns, as in a model [%(default)s]")
    parser.add_argument(
        "--repeats", type=int, default=3, help="of each step of attention and each window end to end [%(default)s]"
    )
    parser.add_argument("--samples", type=int, default=16, help="steps of a file of recorded runs [%(default)s]")
    parser.add_argument("--replay-layers", type=int, default=8, help="of the random model [%(default)s]")
    parser.add_argument("--replay-steps", type=int, default=12, help="of decoding, end to end [%(default)s]")
    parser.add_argument("--only", help="regular expression: pieces to measure, by name [all]")
    parser.add_argument(
        "--list", action="store_true", help="print the names of the pieces and their calls, measure none"
    )
    parser.add_argument("--under", default="", help="command that starts each call, as 'nice -n -5' or 'taskset 3'")
    parser.add_argument("--limit", type=int, default=600, help="seconds for a piece [%(default)s]")
    args = parser.parse_args()
    for name in ("repeats", "samples", "attention_layers", "replay_layers", "replay_steps", "limit"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: must be at least 1")
    try:
        args.recorded = pieces.find_recorded(args.workloads) if args.workloads else {}
    except pieces.Failed as error:
        parser.error(f"--workloads: {error}")
    try:
        args.only = re.compile(args.only or "")
    except re.error as error:
        parser.error(f"--only: {error}")
    args.chosen = [piece for piece in pieces.pieces(args) if args.only.search(piece.name)]
    if not args.chosen:
        parser.error(f"--only: no piece has {args.only.pattern!r} in its name")
    return args


def told_command(args):
    """The command line without what is of this machine alone: where recorded trees lie, what starts a call."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if not skip and not word.startswith("--under="):
            words += [] if word == "--under" else [word]
        skip = word == "--under" and not skip
    return without_folder(args, shlex.join(["scripts/paper_tables.py", *words]))


def without_folder(args, command):
    command = re.sub(r" --json-file \S+", "", command)
    return command.replace(str(args.workloads), "FOLDER") if args.workloads else command


def measure(args):
    attention, replay, reports = [], [], {}
    for piece in args.chosen:
        begin = time.monotonic()
        one = pieces.run(piece, args.bench, shlex.split(args.under), args.limit)
        one["command"] = without_folder(args, one["command"])
        reports[piece.name] = one
        for flatten, sequence in report.pairs(one):
            if piece.kind == "attention":
                attention.append(report.attention_row(piece.name, one, flatten, sequence))
            else:
                replay.append(report.replay_row(piece.name, flatten, sequence))
        print(f"{piece.name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return attention, replay, reports


def text_of(args, attention, replay, reports):
    first = next(iter(reports.values()))
    machine = first["machine"]
    reads = sorted(one["peak"]["read_bytes_per_s"] / 1e9 for one in reports.values())
    gemm = sorted(one["peak"]["bf16_flop_per_s"] / 1e9 for one in reports.values())
    text = (
        f"machine  {machine['cpu']}, {machine['isa']}, {machine['threads']} threads\n"
        f"peak     reads {reads[0]:.1f} to {reads[-1]:.1f} GB/s, bf16 GEMM {gemm[0]:.0f} to {gemm[-1]:.0f} "
        "GFLOP/s, measured in each piece\n"
        f"commit   {first['commit']}\n"
        f"command  {told_command(args)}\n"
    )
    if attention:
        text += (
            f"\nAttention alone, one layer, heads of {args.head_dim}; us: flatten; paper: its speed-up on an A100; "
            "bytes ratio: KV read by sequence over KV read by flatten;\nof bytes ratio: the speed-up over it, where memory is the limit 1 is what can be had; limit: the longer part of the roofline; of "
            "bandwidth: KV read over time (above 100: caches serve)\n\n"
            + report.table(report.ATTENTION_COLUMNS, attention)
        )
    if replay:
        text += (
            f"\nEnd to end: {args.replay_layers} layers of the 1.04 B shape (hidden 2048, 32/8 heads of 64, ffn 8192, 32000 "
            "tokens), steps of decoding; parts of a step of flatten\n\n" + report.table(report.REPLAY_COLUMNS, replay)
        )
    return text


def main():
    args = parse_arguments()
    if args.list:
        for piece in args.chosen:
            print(f"{piece.name}: {shlex.join([str(args.bench), piece.kind, *piece.arguments])}")
        return
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        attention, replay, reports = measure(args)
        text = text_of(args, attention, replay, reports)
        stem = args.out / args.name
        stem.with_name(args.name + ".txt").write_text(text, encoding="utf-8")
        known = {"schema": "espalier-paper/1", "command": told_command(args)}
        known |= {"attention": attention, "replay": replay, "reports": reports}
        stem.with_name(args.name + ".json").write_text(json.dumps(known) + "\n", encoding="utf-8")
        report.plots(stem, attention)
    except (pieces.Failed, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")
    print(text, end="")


if __name__ == "__main__":
    main()
