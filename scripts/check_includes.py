#!/usr/bin/env python3
"""Checks who includes whom: server -> engine -> model -> kernels, never upward, and the server not its client.

scripts/check_includes.py [root]       exit code 1 and one line per fault: file:line: reason
scripts/check_includes.py --self-test  proves on made-up files that each rule finds what it forbids
"""

import pathlib
import re
import sys
import tempfile

FOLDERS = ("kernels", "model", "engine", "server", "tests")
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}

# What each folder may include from the project, by prefix; the longest folder named here decides for a file.
# Tests may include everything.
PROJECT_INCLUDES = {
    "kernels": ("kernels/",),
    "model": ("model/", "kernels/"),
    # The engine knows plans, steps and the backend's interface, no kernel.
    "engine": (
        "engine/",
        "model/",
        "kernels/base/",
        "kernels/plan/",
        "kernels/backend.h",
        "kernels/step_input.h",
    ),
    "server": ("server/", "engine/", "model/", "kernels/", "espalier/v1/"),
    "tests": ("tests/", "server/", "engine/", "model/", "kernels/", "espalier/v1/"),
}

# Headers of the operating system and the compiler that kernels may use in addition to the C++ standard library.
SYSTEM_HEADERS = re.compile(
    r"(sys|asm|linux)/|(immintrin|x86intrin|cpuid|arm_neon|dlfcn|unistd|fcntl|sched|pthread|dirent|errno|signal|numaif)\.h$"
)
STANDARD_HEADER = re.compile(r"[a-z_0-9]+$")
CUDA_HEADERS = re.compile(
    r"(cuda|cublas|nvtx|nvml|device_|driver_types|vector_types|cooperative_groups|mma\.h|cub/|cute?/)"
)
# Kinds of third-party headers and the only folders where they may stand.
THIRD_PARTY_HOMES = (
    (re.compile(r"(grpcpp|grpc|google/protobuf|absl)/"), ("server/", "tests/")),
    (re.compile(r"sentencepiece_processor\.h$"), ("model/tokenizer/",)),
)

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def fault_of(path, kind, included):
    """Why `path` (relative, with slashes) must not include `included`; None where it may."""
    folder = path.split("/")[0]
    if CUDA_HEADERS.match(included) and not path.startswith(("kernels/cuda/", "tests/kernels/cuda/")):
        return "CUDA headers stay in kernels/cuda"
    for headers, homes in THIRD_PARTY_HOMES:
        if headers.match(included) and not path.startswith(homes):
            return f"only {' and '.join(homes)} may include it"
    if included.startswith(tuple(f"{name}/" for name in FOLDERS) + ("espalier/",)):
        if not included.startswith(PROJECT_INCLUDES[folder]):
            return f"{folder} may include only {', '.join(PROJECT_INCLUDES[folder])}"
        if path.startswith("kernels/device/") and included.startswith("kernels/cuda/"):
            return "the portable device knows no CUDA"
        if folder == "server" and not path.startswith("server/cli/") and included.startswith("server/cli/"):
            return "the server knows nothing of its client; what both need is in server/console"
        return None
    if kind == '"':
        return "project headers are included by their path from the repository root, others in <>"
    if folder == "kernels" and not path.startswith("kernels/cuda/"):
        if not STANDARD_HEADER.match(included) and not SYSTEM_HEADERS.match(included):
            return "kernels uses no third-party library"
    return None


def check(root):
    """Faults of the tree below `root`, each as "file:line: #include ...: reason", and the number of files read."""
    faults = []
    files = 0
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix not in SUFFIXES or not file.is_file():
                continue
            files += 1
            path = file.relative_to(root).as_posix()
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                match = INCLUDE.match(line)
                reason = match and fault_of(path, match.group(1), match.group(2))
                if reason:
                    faults.append(f"{path}:{number}: {line.strip()}: {reason}")
    return faults, files


# (file, its include line, whether it is allowed)
SELF_TEST_CASES = (
    ("kernels/cpu/a.cpp", "#include <immintrin.h>", True),
    ("kernels/cpu/b.cpp", '#include "kernels/base/a.h"', True),
    ("kernels/cpu/c.cpp", '#include "model/a.h"', False),
    ("kernels/cpu/d.cpp", '#include "engine/a.h"', False),
    ("kernels/cpu/e.cpp", '#include "server/a.h"', False),
    ("kernels/cpu/f.cpp", "#include <nlohmann/json.hpp>", False),
    ("kernels/cpu/g.cpp", "  #  include <dnnl.hpp>", False),
    ("kernels/cpu/h.cpp", "#include <cuda_runtime.h>", False),
    ("kernels/cpu/i.cpp", '#include "a.h"', False),
    ("kernels/cpu/j.cpp", '#include "base/a.h"', False),
    ("kernels/cuda/a.cu", "#include <cuda_runtime.h>", True),
    ("kernels/cuda/b.cpp", '#include "kernels/device/a.h"', True),
    ("kernels/device/a.cpp", '#include "kernels/cuda/a.h"', False),
    ("kernels/device/b.cpp", "#include <cuda_runtime.h>", False),
    ("kernels/device/c.cpp", '#include "tests/kernels/a.h"', False),
    ("model/b.cpp", "#include <nlohmann/json.hpp>", True),
    ("model/c.cpp", '#include "kernels/cpu/a.h"', True),
    ("model/d.cpp", '#include "engine/a.h"', False),
    ("model/e.cpp", "#include <sentencepiece_processor.h>", False),
    ("model/f.cpp", "#include <cublas_v2.h>", False),
    ("model/tokenizer/a.cpp", "#include <sentencepiece_processor.h>", True),
    ("engine/b.cpp", '#include "model/a.h"', True),
    ("engine/c.cpp", '#include "kernels/base/a.h"', True),
    ("engine/d.cpp", '#include "kernels/backend.h"', True),
    ("engine/e.cpp", '#include "kernels/cpu/a.h"', False),
    ("engine/f.cpp", '#include "server/a.h"', False),
    ("engine/g.cpp", '#include "espalier/v1/tree.pb.h"', False),
    ("engine/h.cpp", "#include <grpcpp/grpcpp.h>", False),
    ("server/b.cpp", '#include "engine/a.h"', True),
    ("server/c.cpp", '#include "espalier/v1/tree.grpc.pb.h"', True),
    ("server/d.cpp", '#include "tests/support/a.h"', False),
    ("server/e.cpp", '#include "server/cli/a.h"', False),
    ("server/console/a.cpp", '#include "server/cli/a.h"', False),
    ("server/cli/b.cpp", '#include "server/cli/a.h"', True),
    ("server/cli/c.cpp", '#include "server/console/a.h"', True),
    ("tests/engine/a.cpp", '#include "kernels/cpu/a.h"', True),
)
SELF_TEST_HEADERS = (
    "kernels/base/a.h",
    "kernels/cpu/a.h",
    "kernels/backend.h",
    "model/a.h",
    "engine/a.h",
    "server/a.h",
    "server/cli/a.h",
    "server/console/a.h",
    "tests/support/a.h",
)


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path, text in [(header, "#pragma once") for header in SELF_TEST_HEADERS] + [
            (path, line) for path, line, _ in SELF_TEST_CASES
        ]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text + "\n", encoding="utf-8")
        faults, _ = check(root)
    found = {fault.split(":")[0] for fault in faults}
    wrong = [
        f"{path}: {line}: {'forbidden' if allowed else 'let through'}"
        for path, line, allowed in SELF_TEST_CASES
        if (path in found) == allowed
    ]
    wrong += [f"{path}: fault in a header without includes" for path in SELF_TEST_HEADERS if path in found]
    for line in wrong:
        print(f"self-test: {line}")
    print(f"{len(SELF_TEST_CASES)} cases, {len(wrong)} wrong")
    return 1 if wrong else 0


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return self_test()
    root = pathlib.Path(arguments[0] if arguments else pathlib.Path(__file__).resolve().parent.parent)
    faults, files = check(root)
    for fault in faults:
        print(fault)
    print(f"{files} files, {len(faults)} faults")
    if files == 0:
        print(f"no C++ files below {root}: wrong folder?")
    return 1 if faults or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
