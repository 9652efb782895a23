#!/usr/bin/env python3
"""Reads what `espalier-bench serve --json-file` wrote, for scripts/load_test.sh.

load_test_report.py rates CLOSED.json                      arrival rates around what the server can take
load_test_report.py report CLOSED.json OPEN.json --to STEM  plots: STEM-throughput.svg, -latency.svg, -open.svg
"""

import argparse
import json
import pathlib

from chart import COLOURS, Series, line_chart

# Parts of the requests per second that closed loops reached.
RATE_PARTS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.2)
CLIENTS = (1, 8, 64, 512)


def read_rows(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["rows"]


def rates(rows):
    """What the mixed workload reached at best, in parts."""
    best = max(row["requests_per_s"] for row in rows if row["workload"] == "mixed")
    return ",".join(f"{max(best * part, 0.1):.1f}" for part in RATE_PARTS)


def by_workload(rows):
    groups = {}
    for row in rows:
        groups.setdefault(row["workload"], []).append(row)
    return groups


def milliseconds(row, field, quantile):
    return row[field][quantile] / 1000


def closed_plots(rows, stem):
    groups = by_workload(rows)
    throughput = [
        Series(name, points=[(row["clients"], row["output_tokens_per_s"]) for row in group])
        for name, group in groups.items()
    ]
    line_chart(
        f"{stem}-throughput.svg",
        throughput,
        title="Output tokens per second, closed loop",
        x_label="clients",
        y_label="tokens/s",
        log_x=True,
        x_ticks=CLIENTS,
    )
    latency = [
        Series(
            f"{name}, {quantile}",
            points=[(row["clients"], milliseconds(row, "total_us", quantile)) for row in group],
            dashed=quantile == "p99",
            colour=colour,
        )
        for colour, (name, group) in zip(COLOURS, groups.items())
        for quantile in ("p50", "p99")
    ]
    line_chart(
        f"{stem}-latency.svg",
        latency,
        title="Time of a request, closed loop",
        x_label="clients",
        y_label="ms, logarithmic",
        log_x=True,
        log_y=True,
        x_ticks=CLIENTS,
    )


def open_plot(rows, stem):
    series = [
        Series(
            f"{label}, {quantile}",
            points=[(row["rate"], milliseconds(row, field, quantile)) for row in rows],
            dashed=quantile == "p99",
            colour=colour,
        )
        for colour, label, field in zip(COLOURS, ("first token", "whole request"), ("first_token_us", "total_us"))
        for quantile in ("p50", "p99")
    ]
    line_chart(
        f"{stem}-open.svg",
        series,
        title="Poisson arrivals, mixed workload",
        x_label="requests per second",
        y_label="ms, logarithmic",
        log_y=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rates_command = commands.add_parser("rates")
    rates_command.add_argument("closed")
    report_command = commands.add_parser("report")
    report_command.add_argument("closed")
    report_command.add_argument("open")
    report_command.add_argument("--to", required=True)
    arguments = parser.parse_args()
    if arguments.command == "rates":
        print(rates(read_rows(arguments.closed)))
        return
    closed_plots(read_rows(arguments.closed), arguments.to)
    open_plot(read_rows(arguments.open), arguments.to)


if __name__ == "__main__":
    main()
