#!/usr/bin/env python3
"""Checks what scripts/quickstart.sh has recorded, and says it in a line each. Exit code 1: not as it should be.

quickstart_check.py cache COLD.jsonl WARM.jsonl            the second run used the cache and gave the same tokens
quickstart_check.py search TREE.json SEARCH.jsonl GREEDY.jsonl   the search is right where greedy decoding is wrong
quickstart_check.py stats STATS.json                       what attention read, and that no block leaked
"""

import json
import re
import sys

STEP = re.compile(r"^(\d+) ([-+*/]) (\d+) = (\d+) left ([\d ]+)$")
OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b if b and a % b == 0 else None,
}


def events(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def event(path, kind):
    found = [entry for entry in events(path) if entry["event"] == kind]
    if not found:
        sys.exit(f"{path}: no event '{kind}'")
    return found[-1]


def check_cache(cold_path, warm_path):
    cold, warm = event(cold_path, "finished"), event(warm_path, "finished")
    started = event(warm_path, "started")
    if started["cached_tokens"] == 0:
        sys.exit("the second request found nothing in the cache")
    texts = [[branch["text"] for branch in run["branches"]] for run in (cold, warm)]
    if texts[0] != texts[1]:
        sys.exit("the same request and seed gave another tree")
    print(
        f"         {started['cached_tokens']}/{started['prompt_tokens']} tokens cached, first token "
        f"{cold['usage']['first_token_us'] / 1000:.1f} -> {warm['usage']['first_token_us'] / 1000:.1f} ms, "
        f"{len(texts[1])} branches token for token the same"
    )


def countdown_fault(numbers, target, text):
    """Why the text does not solve the problem, or None."""
    left = sorted(numbers)
    lines = [re.sub(r"( :)?( ok| bad)?$", "", line.strip()) for line in text.split("\n") if line.strip()]
    if len(lines) < len(numbers) - 1:
        return f"stops after {len(lines)} steps"
    for line in lines[: len(numbers) - 1]:
        match = STEP.match(line)
        if not match:
            return f"'{line}' is no step"
        a, sign, b, result = int(match[1]), match[2], int(match[3]), int(match[4])
        rest = list(left)
        for number in (a, b):
            if number not in rest:
                return f"'{line}' uses {number}, which is not there"
            rest.remove(number)
        if OPERATIONS[sign](a, b) != result:
            return f"'{line}' is wrong"
        left = sorted(rest + [result])
        if sorted(map(int, match[5].split())) != left:
            return f"'{line}' keeps the wrong numbers"
    return None if left == [target] else f"ends at {left[0]} instead of {target}"


def path_text(finished, terminal):
    """Text of the branches from below the root to `terminal`, a step a line."""
    branches = {branch["branch"]: branch for branch in finished["branches"]}
    parts = []
    while terminal in branches:
        parts.append(branches[terminal]["text"])
        terminal = branches[terminal]["parent"]
    return "".join(reversed(parts))


def check_search(tree_path, search_path, greedy_path):
    with open(tree_path, encoding="utf-8") as file:
        root = json.loads(re.sub(r"^\s*//.*$", "", file.read(), flags=re.M))["nodes"][0]["given"]["text"]
    *numbers, target = map(int, re.findall(r"\d+", root))
    best = path_text(event(search_path, "finished"), event(search_path, "selected")["kept"][0])
    greedy = event(greedy_path, "finished")["branches"][0]["text"]
    print(f"         numbers {' '.join(map(str, numbers))}, target {target}")
    faults = []
    for name, text in (("greedy decoding", greedy), ("tree search", best)):
        fault = countdown_fault(numbers, target, text)
        steps = "; ".join(line.strip() for line in text.strip().split("\n"))
        print(f"         {name}: {steps}\n           -> {'right' if fault is None else 'wrong: ' + fault}")
        faults.append(fault)
    if faults[1] is not None or faults[0] is None:
        sys.exit("expected: greedy decoding wrong, tree search right")


def check_stats(path):
    with open(path, encoding="utf-8") as file:
        stats = json.load(file)
    read, alone = stats["kv_read_bytes"], stats["kv_read_bytes_sequence"]
    seconds = stats["step_us"] * 1e-6
    print(
        f"         KV bytes read: {read / 1e6:.1f} MB instead of {alone / 1e6:.1f} MB path by path "
        f"({100 * (1 - read / alone):.0f} % saved), "
        f"{stats['generated_tokens'] / seconds:.0f} tokens/s over all, blocks leaked: {stats['blocks_live']}"
    )
    total = stats["blocks_free"] + stats["blocks_indexed"] + stats["blocks_live"] + stats["blocks_scratch"]
    if stats["blocks_live"] != 0 or stats["requests_active"] != 0 or total != stats["blocks_total"]:
        sys.exit("blocks are missing from the account, or still held")


def main():
    checks = {"cache": (check_cache, 2), "search": (check_search, 3), "stats": (check_stats, 1)}
    check, count = checks.get(sys.argv[1] if len(sys.argv) > 1 else "", (None, 0))
    if check is None or len(sys.argv) != 2 + count:
        sys.exit(__doc__)
    check(*sys.argv[2:])


if __name__ == "__main__":
    main()
