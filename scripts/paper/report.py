"""Rows, table and plots of scripts/paper_tables.py from the reports of espalier-bench."""

from chart import COLOURS, Series, line_chart
from paper.pieces import BENCH_NAMES, PAPER_SPEEDUP


def pairs(report):
    """(flatten, sequence) rows of each workload of a report."""
    by_workload = {}
    for row in report["rows"]:
        by_workload.setdefault(row["workload"], {})[row["mode"]] = row
    return [(modes["flatten"], modes["sequence"]) for modes in by_workload.values()]


def heads(row):
    return f"{row['query_heads']}/{row['kv_heads']}"


def attention_row(piece, report, flatten, sequence):
    """What is reported of one workload of attention alone. Rates and shares are parts of what the same run measured."""
    peak = report["peak"]
    token_bytes = 2 * flatten["kv_heads"] * flatten["head_dim"] * (2 if flatten["dtype"] == "bfloat16" else 4)
    memory_us = flatten["kv_tokens"] * token_bytes / peak["read_bytes_per_s"] * 1e6
    products_us = flatten["flop"] / peak["bf16_flop_per_s"] * 1e6
    name = BENCH_NAMES.get(flatten["workload"], flatten["workload"])
    speedup = sequence["time_us"]["median"] / flatten["time_us"]["median"]
    byte_ratio = sequence["kv_read_bytes"] / flatten["kv_read_bytes"]
    return {
        "piece": piece,
        "workload": name,
        "heads": heads(flatten),
        "head_dim": flatten["head_dim"],
        "query_rows": flatten["query_rows"],
        "paper_speedup": PAPER_SPEEDUP.get(name),
        "speedup": speedup,
        "byte_ratio": byte_ratio,
        "part_of_byte_ratio": speedup / byte_ratio,
        "kv_io_saved": 1 - flatten["kv_read_bytes"] / sequence["kv_read_bytes"],
        "flatten_us": flatten["time_us"]["median"],
        "sequence_us": sequence["time_us"]["median"],
        "limit": "memory" if memory_us > products_us else "products",
        "flatten_of_roofline": flatten["roofline_ratio"],
        "flatten_of_bandwidth": flatten["achieved_bytes_per_s"] / peak["read_bytes_per_s"],
        "sequence_of_bandwidth": sequence["achieved_bytes_per_s"] / peak["read_bytes_per_s"],
        "partial_bytes": flatten["partial_bytes"],
        "plan_us": flatten["plan_us"],
    }


def replay_row(piece, flatten, sequence):
    """What is reported of one workload run end to end."""
    steps = flatten["steps"]
    return {
        "piece": piece,
        "workload": flatten["workload"],
        "steps": steps,
        "step_ms": flatten["decode_us"] / steps / 1000,
        "sequence_step_ms": sequence["decode_us"] / sequence["steps"] / 1000,
        "speedup": sequence["decode_us"] / sequence["steps"] / (flatten["decode_us"] / steps),
        "attention_speedup": sequence["attention_us"] / sequence["steps"] / (flatten["attention_us"] / steps),
        "kv_io_saved": 1 - flatten["kv_read_bytes"] / flatten["kv_read_bytes_sequence"],
        "attention_part": flatten["attention_us"] / flatten["decode_us"],
        "plan_part": flatten["plan_us"] / flatten["decode_us"],
        "outside_part": flatten["outside_forward_us"] / flatten["decode_us"],
    }


def _percent(value):
    return f"{100 * value:.0f}"


ATTENTION_COLUMNS = (
    ("workload", lambda row: row["workload"]),
    ("heads", lambda row: row["heads"]),
    ("rows", lambda row: f"{row['query_rows']:.0f}"),
    ("us", lambda row: f"{row['flatten_us']:.0f}"),
    ("sequence us", lambda row: f"{row['sequence_us']:.0f}"),
    ("speed-up", lambda row: f"{row['speedup']:.2f}"),
    ("paper", lambda row: f"{row['paper_speedup']:.2f}" if row["paper_speedup"] else "-"),
    ("bytes ratio", lambda row: f"{row['byte_ratio']:.2f}"),
    ("of bytes ratio", lambda row: f"{row['part_of_byte_ratio']:.2f}"),
    ("KV IO saved %", lambda row: f"{100 * row['kv_io_saved']:.1f}"),
    ("limit", lambda row: row["limit"]),
    ("of roofline %", lambda row: _percent(row["flatten_of_roofline"])),
    ("of bandwidth %", lambda row: _percent(row["flatten_of_bandwidth"])),
    ("sequence %", lambda row: _percent(row["sequence_of_bandwidth"])),
    ("plan us", lambda row: f"{row['plan_us']:.0f}"),
)
REPLAY_COLUMNS = (
    ("workload", lambda row: row["workload"]),
    ("steps", lambda row: f"{row['steps']}"),
    ("step ms", lambda row: f"{row['step_ms']:.1f}"),
    ("sequence ms", lambda row: f"{row['sequence_step_ms']:.1f}"),
    ("speed-up", lambda row: f"{row['speedup']:.2f}"),
    ("attention", lambda row: f"{row['attention_speedup']:.2f}"),
    ("KV IO saved %", lambda row: f"{100 * row['kv_io_saved']:.1f}"),
    ("attention %", lambda row: f"{100 * row['attention_part']:.1f}"),
    ("plan %", lambda row: f"{100 * row['plan_part']:.2f}"),
    ("outside forward %", lambda row: f"{100 * row['outside_part']:.2f}"),
)


def table(columns, rows):
    lines = [[title for title, _ in columns]] + [[text(row) for _, text in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]) + "\n"
        for line in lines
    )


def _groups(rows):
    """Rows by (kind of workload, heads), those alone that the paper has figures of."""
    groups = {}
    for row in rows:
        if row["paper_speedup"]:
            kind = row["workload"].rsplit(" ", 1)[0] if row["workload"][-1].isdigit() else "reasoning"
            groups.setdefault((kind, row["heads"]), []).append(row)
    return groups


def _points(rows, value):
    return sorted((row["query_rows"], value(row)) for row in rows)


def plots(stem, rows):
    """Writes STEM-speedup.svg and STEM-roofline.svg; none where no row has a figure of the paper's."""
    groups = _groups(rows)
    if not groups:
        return []
    kinds = list(dict.fromkeys(kind for kind, _ in groups))
    colour = {kind: COLOURS[i] for i, kind in enumerate(kinds)}
    speedup, roofline = [], []
    for (kind, group_heads), group in groups.items():
        dashed = group_heads.split("/")[0] == group_heads.split("/")[1]
        name = f"{kind}, {group_heads} heads"
        line = kind != "reasoning"
        speedup.append(Series(name, _points(group, lambda row: row["speedup"]), dashed, line, colour[kind]))
        share = [(x, 100 * y) for x, y in _points(group, lambda row: row["flatten_of_roofline"])]
        roofline.append(Series(name, share, dashed, line, colour[kind]))
    for kind in kinds:
        group = next(group for (other, _), group in groups.items() if other == kind)
        paper = _points(group, lambda row: row["paper_speedup"])
        speedup.append(Series(f"{kind}, the paper's", paper, line=False, colour="#57606a"))
    files = [f"{stem}-speedup.svg", f"{stem}-roofline.svg"]
    line_chart(
        files[0],
        speedup,
        title="Attention: speed-up of tree attention over path by path",
        x_label="rows of a step",
        y_label="speed-up, logarithmic",
        log_x=True,
        log_y=True,
        y_mark=1,
    )
    line_chart(
        files[1],
        roofline,
        title="Tree attention: part of what the machine can do",
        x_label="rows of a step",
        y_label="% of the roofline",
        log_x=True,
        y_range=(0, 100),
    )
    return files
