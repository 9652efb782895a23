"""What scripts/paper_tables.py measures: the workloads of the DeFT paper, one call of espalier-bench each."""

import json
import shlex
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

# Attention speed-up of flatten over RadixAttention on an A100, Llama-3 8B (Yao et al., arXiv 2404.00242).
PAPER_SPEEDUP = {
    "few-shot 20": 1.73,
    "few-shot 30": 1.63,
    "few-shot 50": 1.70,
    "sorting128ToT": 1.39,
    "docmergeToT": 1.15,
    "token tree 32": 1.96,
    "token tree 64": 2.41,
    "token tree 128": 3.11,
    "token tree 256": 3.59,
}
BENCH_NAMES = {f"APPS_tree_size{rows}": f"token tree {rows}" for rows in (32, 64)}
# Recorded by the paper's authors: github.com/LINs-lab/DeFT, dataset/generation (MIT licence).
RECORDED = ("sorting128ToT.json", "docmergeToT.json")
TOKEN_TREES = ("APPS_tree_size32.json", "APPS_tree_size64.json")

# Shapes that kernels of later papers are measured on: FastTree (MLSys 2025) and PAT (ASPLOS 2026). The last two share
# nothing.
KERNEL_SHAPES = (
    "1,2,64;8,256,32 1,4,256;8,256,32 1,4,8,256;8,256,256,32 1,256;256,32 1,1024;2048,32 1,16,64;1024,256,32 "
    "1,4,16,512;1024,256,128,32 1,4,16,64,256,1024;256,8,256,64,32,256 1,10;4000,400 "
    "1,2,4,8,16,32,64,128,1024;16,16,16,16,16,16,16,16,16 1,2,4,8,16,32,64,128,1024;256,128,64,16,16,16,16,16,16 "
    "1,8,16,32,64,128,1024;256,128,64,16,16,16,16 1,16,32,64,256,1024;256,128,64,16,16,16 1,10;4096,416 "
    "1,2,64;1024,256,256 1,4,256;32,256,32 1,8,512;32,512,256 1,8,512;512,512,256 1,4,8,256;32,256,256,32 "
    "2,8,16,256;256,256,32,32 4,16,256,512;512,32,128,32 8,16,32,256;512,512,256,32 256;1024 256;4096"
).split()


class Failed(Exception):
    """A measurement that gave no report; the text says which and why."""


def find_recorded(folder):
    """Where the recorded trees lie at or below `folder`, by name; a clone of the paper's repository will do."""
    found = {path.name: path for path in sorted(folder.rglob("*.json"), reverse=True)}
    for name in (*RECORDED, *TOKEN_TREES):
        if name not in found:
            raise Failed(f"{folder}: {name} is not there")
    return {name: found[name] for name in (*RECORDED, *TOKEN_TREES)}


@dataclass
class Piece:
    """One call of espalier-bench. `kind`: attention or replay."""

    name: str
    kind: str
    arguments: list = field(default_factory=list)


def pieces(options):
    """Everything to measure, in order. options.recorded: of find_recorded; empty: without what needs recorded trees."""
    recorded = {name: str(path) for name, path in options.recorded.items()}
    found = []
    for heads in options.heads:
        common = ["--heads", heads, "--head-dim", str(options.head_dim), "--repeats", str(options.repeats)]
        common += ["--modes", "flatten,sequence", "--layers", str(options.attention_layers)]
        label = f"{heads} heads"
        branches = ["--few-shot", "20,30,50", "--branch-tokens", "200"]
        found.append(Piece(f"few-shot, {label}", "attention", common + branches))
        small = [recorded[name] for name in TOKEN_TREES] if recorded else ["32"]
        trees = [argument for tree in [*small, "128", "256"] for argument in ("--token-tree", tree)]
        found.append(Piece(f"token trees, {label}", "attention", common + trees))
        if recorded:
            reasoning = [argument for name in RECORDED for argument in ("--trees", recorded[name])]
            samples = ["--samples", str(options.samples)]
            found.append(Piece(f"reasoning, {label}", "attention", common + reasoning + samples))
    shapes = [argument for shape in KERNEL_SHAPES for argument in ("--tree", shape)]
    found.append(
        Piece(
            "kernel shapes",
            "attention",
            ["--heads", options.shape_heads, "--head-dim", str(options.head_dim), "--repeats", str(options.repeats)]
            + ["--modes", "flatten,sequence", "--cold-bytes", "134217728", "--checked-rows", "0"]
            + shapes,
        )
    )
    replay = ["--layers", str(options.replay_layers), "--windows", "2", "--window-steps", str(options.replay_steps)]
    replay += ["--repeats", str(options.repeats)]
    for branches in ("20", "50"):
        found.append(Piece(f"replay, few-shot {branches}", "replay", [*replay, "--few-shot", branches]))
    for name in RECORDED if recorded else ():
        found.append(Piece(f"replay, {Path(name).stem}", "replay", [*replay, "--trees", recorded[name]]))
    return found


def run(piece, bench, under, limit_s):
    """The JSON report of the piece. `under`: a command and its arguments that the program is started by."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [*under, str(bench), piece.kind, *piece.arguments, "--json-file", str(report)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{piece.name}: took more than {limit_s} s: {shlex.join(command)}") from None
        except OSError as error:
            raise Failed(f"{piece.name}: {error}") from error
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise Failed(f"{piece.name}: status {done.returncode}: {last}")
        return json.loads(report.read_text(encoding="utf-8"))
