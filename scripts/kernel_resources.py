#!/usr/bin/env python3
"""Keeps what ptxas says of the CUDA kernels, and checks it.

    scripts/kernel_resources.py --keep [launcher] nvcc ... -o OBJECT   runs the compiler; its report goes to OBJECT.ptxas
    scripts/kernel_resources.py --check LIMITS FOLDER... [--write]     reads the reports below the folders

LIMITS is a JSON file: for each kernel and architecture the most registers that it may use. Spills and stack frames are
never allowed. --write puts the figures found into LIMITS, rounded up to sixteens: compilers differ by a few.
"""

import json
import pathlib
import re
import subprocess
import sys

REPORT_LINE = re.compile(r"^(ptxas info|\s+\d+ bytes stack frame)")
ENTRY = re.compile(r"Compiling entry function '([^']+)' for '([^']+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
KERNEL = re.compile(r"RunKernelINS_6device\d+(\w+?)ArgsE")
CEILING = re.compile(r"^_ZN8espalier8ceilings(\d+)(\w+)")


def keep(command):
    """Runs the compiler and takes its report out of what it prints."""
    command = [part for part in command if part]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    lines = run.stderr.splitlines(keepends=True)
    sys.stderr.write("".join(line for line in lines if not REPORT_LINE.match(line)))
    if run.returncode == 0 and "-o" in command:
        report = pathlib.Path(command[command.index("-o") + 1] + ".ptxas")
        report.write_text("".join(line for line in lines if REPORT_LINE.match(line)))
    return run.returncode


def name_of(symbol):
    """RunKernel<espalier::device::EmbedArgs> is Embed; espalier::ceilings::ReadBulk<true> ceilings.ReadBulk.Lb1"""
    if match := KERNEL.search(symbol):
        return match[1]
    if match := CEILING.search(symbol):
        length = int(match[1])
        rest = re.match(r"I(\w+?)EE", match[2][length:])
        return "ceilings." + match[2][:length] + ("." + rest[1] if rest else "")
    return symbol


def parse(text):
    """{(kernel, architecture): {registers, stack_bytes, spill_bytes}}"""
    found = {}
    current = None
    for line in text.splitlines():
        if match := ENTRY.search(line):
            current = found.setdefault((name_of(match[1]), match[2]), {})
        elif current is not None and (match := FRAME.search(line)):
            current["stack_bytes"] = int(match[1])
            current["spill_bytes"] = int(match[2]) + int(match[3])
        elif current is not None and (match := REGISTERS.search(line)):
            current["registers"] = int(match[1])
    return found


def check(limits_file, folders, write):
    """Prints the table of all kernels; 1 where one breaks its limit."""
    found = {}
    for report in sorted(path for folder in folders for path in pathlib.Path(folder).rglob("*.ptxas")):
        found.update(parse(report.read_text()))
    limits_path = pathlib.Path(limits_file)
    if write:
        table = {}
        for (kernel, architecture), use in sorted(found.items()):
            table.setdefault(kernel, {})[architecture] = -(-use["registers"] // 16) * 16
        limits_path.write_text(json.dumps(table, indent=2) + "\n")
    limits = json.loads(limits_path.read_text())
    faults = []
    for (kernel, architecture), use in sorted(found.items()):
        limit = limits.get(kernel, {}).get(architecture)
        print(
            f"{kernel:22} {architecture:8} {use['registers']:4} registers (at most {limit}), "
            f"{use['stack_bytes']} bytes of stack, {use['spill_bytes']} of spills"
        )
        if use["stack_bytes"] or use["spill_bytes"]:
            faults.append(f"{kernel} for {architecture} keeps registers in memory")
        if kernel not in limits:
            faults.append(f"{kernel} has no limit in {limits_file}: add it by --write")
        elif limit is not None and use["registers"] > limit:  # other architectures have none
            faults.append(f"{kernel} for {architecture} uses {use['registers']} registers, more than {limit}")
    for kernel in limits:
        if not any(name == kernel for name, _ in found):
            faults.append(f"no report of {kernel} below {' or '.join(folders)}: build it first")
    for fault in faults:
        print("fault: " + fault)
    return 1 if faults else 0


def main():
    arguments = sys.argv[1:]
    if len(arguments) > 1 and arguments[0] == "--keep":
        return keep(arguments[1:])
    if len(arguments) >= 3 and arguments[0] == "--check":
        return check(arguments[1], [folder for folder in arguments[2:] if folder != "--write"], "--write" in arguments)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
