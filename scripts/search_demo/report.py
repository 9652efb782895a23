"""Text, JSON and plots of what was measured."""

from chart import Series, line_chart

from .intervals import paired, wilson
from .measure import RANKINGS

# Numbers of samples in tables and plots: about equal steps on a logarithmic axis.
COUNTS = (1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 45, 64, 80, 100)
# Name in the plot, whether a line joins the points, colour.
KINDS = {
    "greedy": ("greedy", False, "#24292f"),
    "sample": ("one sample", False, "#8c959f"),
    "tree": ("tree, shape for the budget", True, "#d55e00"),
    "beam": ("tree 8 a step, keep 5", False, "#e69f00"),
    "sum of verdicts": ("best of n, sum of verdicts", True, "#0072b2"),
    "mean log-probability": ("best of n, mean log-prob.", True, "#009e73"),
    "latest verdict": ("best of n, latest verdict", True, "#cc79a7"),
    "log-probability": ("best of n, log-probability", True, "#8c959f"),
}
RIVALS = ("sum of verdicts", "mean log-probability")


def _accuracy(outcome):
    low, high = wilson(sum(outcome.right), len(outcome.right))
    return {
        "tokens": outcome.tokens,
        "right": sum(outcome.right),
        "problems": len(outcome.right),
        "percent": outcome.percent,
        "low": low,
        "high": high,
    }


def rows(outcomes):
    """What tables and plots show, as plain values."""
    found = []
    for outcome in outcomes:
        if outcome.n and outcome.n not in COUNTS:
            continue
        name = outcome.name.replace("best of n", f"best of {outcome.n}")
        found.append({"kind": outcome.kind, "method": name, "n": outcome.n, **_accuracy(outcome)})
    return found


def rival(outcomes, kind, tokens):
    """Best-of-n with the least n that takes no fewer tokens; None where no n does."""
    enough = [outcome for outcome in outcomes if outcome.kind == kind and outcome.tokens >= tokens]
    return min(enough, key=lambda outcome: outcome.n, default=None)


def pairs(outcomes):
    """Each tree against best-of-n on the same problems at no fewer tokens."""
    found = []
    for tree in (outcome for outcome in outcomes if outcome.kind in ("tree", "beam")):
        for kind in RIVALS:
            other = rival(outcomes, kind, tree.tokens)
            if other is None:
                continue
            difference, low, high = paired(tree.right, other.right)
            found.append(
                {
                    "tree": tree.name,
                    "tree_tokens": tree.tokens,
                    "tree_percent": tree.percent,
                    "rival": other.name.replace("best of n", f"best of {other.n}"),
                    "rival_tokens": other.tokens,
                    "rival_percent": other.percent,
                    "difference": difference,
                    "low": low,
                    "high": high,
                }
            )
    return found


def weight_pairs(outcomes, others):
    """The same methods on the same problems, with the model's own weights and with others.

    `lost`: problems that only the first got right; `won`: only the second; `texts`: with another text of the answer.
    """
    found = []
    for own, other in zip(outcomes, others):
        difference, low, high = paired(other.right, own.right)
        found.append(
            {
                "method": own.name,
                "own": _accuracy(own),
                "other": _accuracy(other),
                "difference": difference,
                "low": low,
                "high": high,
                "lost": sum(a and not b for a, b in zip(own.right, other.right)),
                "won": sum(b and not a for a, b in zip(own.right, other.right)),
                "texts": sum(a != b for a, b in zip(own.texts, other.texts)),
            }
        )
    return found


def plot(path, task_name, found, problems):
    series = []
    for kind, (name, line, colour) in KINDS.items():
        points = [(row["tokens"], row["percent"], row["low"], row["high"]) for row in found if row["kind"] == kind]
        series.append(Series(name, sorted(points), line=line, dashed=kind in RANKINGS, colour=colour))
    line_chart(
        path,
        series,
        title=f"{task_name.capitalize()}: right answers against tokens spent",
        x_label=f"tokens a problem, verdicts included ({problems} unseen problems, 95 % intervals)",
        y_label="right, %",
        log_x=True,
        y_range=(0, 100),
        width=900,
        height=460,
    )


def _table(heads, lines):
    columns = list(zip(heads, *lines))
    widths = [max(map(len, column)) for column in columns]
    text = ""
    for line in [heads, *lines]:
        cells = [cell.ljust(w) if index == 0 else cell.rjust(w) for index, (cell, w) in enumerate(zip(line, widths))]
        text += "  ".join(cells).rstrip() + "\n"
    return text


def _interval(low, high):
    return f"[{low:.1f}, {high:.1f}]"


def _methods(found):
    lines = [
        (row["method"], f"{row['tokens']:.0f}", f"{row['percent']:.1f}", _interval(row["low"], row["high"]))
        for row in found
        if not row["n"]
    ]
    return _table(("method", "tokens", "right %", "95 %"), lines)


def _best_of(found):
    """A line for each n; the rankings of the same samples side by side."""
    lines = []
    for n in sorted({row["n"] for row in found} - {0}):
        line = [f"best of {n}"]
        for kinds in (("sum of verdicts", "latest verdict"), ("mean log-probability", "log-probability")):
            of_n = {row["kind"]: row for row in found if row["n"] == n}
            if kinds[0] not in of_n:
                line += ["-"] * (1 + 2 * len(kinds))
                continue
            line.append(f"{of_n[kinds[0]]['tokens']:.0f}")
            for row in (of_n[kind] for kind in kinds):
                line += [f"{row['percent']:.1f}", _interval(row["low"], row["high"])]
        lines.append(line)
    interval = "95 %"
    heads = ("", "tokens", "by sum of verdicts", interval, "by latest", interval)
    return _table((*heads, "tokens", "by mean log-prob.", interval, "by log-prob.", interval), lines)


def _pairs(found):
    lines = [
        (
            row["tree"],
            f"{row['tree_tokens']:.0f}",
            f"{row['tree_percent']:.1f}",
            row["rival"],
            f"{row['rival_tokens']:.0f}",
            f"{row['rival_percent']:.1f}",
            f"{row['difference']:+.1f}",
            f"[{row['low']:+.1f}, {row['high']:+.1f}]",
        )
        for row in found
    ]
    return _table(("tree", "tokens", "right %", "against", "tokens", "right %", "points", "95 %"), lines)


def _costs(found):
    lines = [
        (
            row["method"],
            f"{row['tokens']:.0f}",
            f"{row['steps']:.0f}",
            f"{row['total_us'] / 1000:.1f}",
            f"{row['tokens'] / row['total_us'] * 1e6:.0f}",
            f"{row['kv_read_bytes'] / 1e6:.1f}",
            f"{row['kv_read_bytes_sequence'] / 1e6:.1f}",
        )
        for row in found
    ]
    return _table(("", "tokens", "steps", "ms", "tokens/s", "KV MB read", "by each branch's path"), lines)


def weights_text(name, found, types):
    """The table of weight_pairs; `types`: names of the two."""
    lines = []
    for row in found:
        line = [row["method"]]
        for side in (row["own"], row["other"]):
            line += [f"{side['tokens']:.0f}", f"{side['percent']:.1f}", _interval(side["low"], side["high"])]
        line += [f"{row['difference']:+.1f}", f"[{row['low']:+.1f}, {row['high']:+.1f}]"]
        lines.append([*line, *(str(row[key]) for key in ("lost", "won", "texts"))])
    heads = ["method"]
    for kind in types:
        heads += ["tokens", f"{kind} %", "95 %"]
    heads += ["points", "95 %", *(f"only {kind} right" for kind in types), "other text"]
    return f"{name}\n\n{_table(heads, lines)}"


def task_text(name, result):
    """All tables of a task."""
    return (
        f"{name}, all methods\n\n{_methods(result['methods'])}\n"
        "Best of n. Left: every step judged, ranked by verdicts; right: whole texts with the model's own verdicts in "
        f"them, ranked by log-probability\n\n{_best_of(result['methods'])}\n"
        f"Trees against best of n on the same problems, best of n at no fewer tokens\n\n{_pairs(result['pairs'])}\n"
        f"One request at a time, mean of {result['cost_problems']} problems\n\n{_costs(result['costs'])}"
    )
