#!/usr/bin/env python3
"""Encoding speed of Espalier compared with that of the `tokenizers` package, on the same texts in the same run.

    scripts/tokenize_compare.py TOKENIZER.json [--sizes 1024,1048576] [--kinds words,run] [--json-file FILE]

Runs `espalier-bench tokenize`, has the package encode the texts that it made, and prints both speeds and their ratio.
Both are measured as CPU time of one thread. Exit code 1 where the two do not give the same ids. The package also gathers
the offsets of its tokens, which Espalier does not. Needs the built bench and the package (pip install tokenizers).
"""

import argparse
import json
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=pathlib.Path, help="tokenizer.json")
    parser.add_argument("--bench", type=pathlib.Path, default=ROOT / "build/release/bin/espalier-bench")
    parser.add_argument("--sizes", default="1024,65536,1048576,4194304", help="bytes of the texts [%(default)s]")
    parser.add_argument("--kinds", default="all", help="kinds of text, as the bench has them [%(default)s]")
    parser.add_argument("--repeats", type=int, default=5, help="measurements, of which the median counts [%(default)s]")
    parser.add_argument("--least-ms", type=float, default=20, help="length of a measurement [%(default)s]")
    parser.add_argument("--json-file", type=pathlib.Path, help="file for the bench's JSON with the package's figures")
    return parser.parse_args()


def run_bench(args, texts):
    command = [args.bench, "tokenize", "--tokenizer", args.tokenizer, "--sizes", args.sizes, "--kinds", args.kinds]
    command += ["--repeats", args.repeats, "--least-ms", args.least_ms, "--keep-texts", texts, "--json"]
    run = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"error: {args.bench} tokenize failed with exit code {run.returncode}")
    return json.loads(run.stdout)


def fnv1a(ids):
    """As the bench computes it: over 32-bit little-endian numbers."""
    value = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def package_us(package, text, repeats, least_ms):
    times = []
    for _ in range(repeats):
        runs, begin = 0, time.thread_time()
        while runs == 0 or time.thread_time() - begin < least_ms / 1000:
            package.encode(text, add_special_tokens=False)
            runs += 1
        times.append((time.thread_time() - begin) / runs * 1e6)
    return statistics.median(times)


def main():
    args = parse_arguments()
    try:
        import tokenizers
    except ImportError:
        sys.exit("error: the package 'tokenizers' is not installed: pip install tokenizers")
    package = tokenizers.Tokenizer.from_file(str(args.tokenizer))
    with tempfile.TemporaryDirectory(prefix="espalier-texts-") as folder:
        result = run_bench(args, folder)
        for row in result["rows"]:
            text = (pathlib.Path(folder) / f"{row['kind']}-{row['bytes']}.txt").read_bytes().decode()
            row["same_ids"] = fnv1a(package.encode(text, add_special_tokens=False).ids) == row["ids_fnv1a"]
            row["package_us"] = package_us(package, text, args.repeats, args.least_ms)
    result["package"] = f"tokenizers {tokenizers.__version__}"
    machine = result["machine"]
    print(f"machine  {machine['cpu']}, load {machine['load_average']:.1f}, one thread each, CPU time")
    print(f"commit   {result['commit']}, compared with {result['package']}\nfile     {args.tokenizer}\n")
    print(
        f"{'text':>8}{'bytes':>9}{'tokens':>9}{'Espalier MB/s':>15}{'ns/byte':>9}{'package MB/s':>14}{'times':>7}  ids"
    )
    for row in result["rows"]:
        theirs = row["bytes"] / row["package_us"]
        print(
            f"{row['kind']:>8}{row['bytes']:>9}{row['tokens']:>9}{row['mb_per_s']:>15.2f}{row['ns_per_byte']:>9.1f}"
            f"{theirs:>14.2f}{row['mb_per_s'] / theirs:>7.2f}  {'same' if row['same_ids'] else 'DIFFER'}"
        )
    if args.json_file:
        args.json_file.write_text(json.dumps(result) + "\n", encoding="utf-8")
    if not all(row["same_ids"] for row in result["rows"]):
        sys.exit("error: the ids are not those of the package")


if __name__ == "__main__":
    main()
