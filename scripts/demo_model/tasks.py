"""The three tasks of the demo model: text formats, random examples with loss weights, and exact checkers.

A *segment* is a (text, weight) pair; the concatenated texts of an example are the training text and the
weight applies to every token of the segment. Weight 0 means "the model sees it, but does not learn to
write it": the choice of an inserted wrong step is never taught, its arithmetic and its verdict are.
"""

import itertools
import random
import zlib
from functools import lru_cache

VERDICT_WEIGHT = 3.0
HELD_OUT_ONE_IN = 16

# Countdown: four numbers, a target, three steps.
INPUT_MAX = 13
VALUE_MAX = 60
TARGET_MIN, TARGET_MAX = 10, 50

# Coins: three of nine coins add up to the price.
COIN_COUNT = 9
COIN_MAX = 32

NUMBER_MAX = 99  # every number up to here is one piece, with and without a space before it


def held_out(kind, numbers, target):
    """True when the problem is reserved for evaluation and never trained on."""
    key = f"{kind} {' '.join(map(str, numbers))} {target}"
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


# ---------------------------------------------------------------- Countdown


@lru_cache(maxsize=None)
def countdown_steps(state):
    """All legal steps of a sorted tuple: (a, op, b, result, next sorted tuple), larger operand first."""
    steps = {}
    for i, j in itertools.combinations(range(len(state)), 2):
        b, a = state[i], state[j]
        rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
        results = [("+", a + b), ("*", a * b)]
        if a > b:
            results.append(("-", a - b))
        if b > 1 and a % b == 0:
            results.append(("/", a // b))
        for op, value in results:
            if value <= VALUE_MAX:
                steps[(a, op, b)] = (a, op, b, value, tuple(sorted(rest + (value,))))
    return tuple(steps.values())


@lru_cache(maxsize=None)
def countdown_reach(state):
    """Bit v is set when the value v can be reached with all numbers of the state used."""
    if len(state) == 1:
        return 1 << state[0]
    reach = 0
    for step in countdown_steps(state):
        reach |= countdown_reach(step[4])
    return reach


@lru_cache(maxsize=None)
def _countdown_split(state, target):
    """Steps after which the target is (still, no longer) reachable."""
    good, bad = [], []
    for step in countdown_steps(state):
        (good if countdown_reach(step[4]) >> target & 1 else bad).append(step)
    return tuple(good), tuple(bad)


@lru_cache(maxsize=None)
def countdown_problems(unseen):
    """All solvable problems ((n1, n2, n3, n4), target), either the held-out ones or the others."""
    problems = []
    for numbers in itertools.combinations_with_replacement(range(1, INPUT_MAX + 1), 4):
        reach = countdown_reach(numbers)
        for target in range(TARGET_MIN, TARGET_MAX + 1):
            if reach >> target & 1 and held_out("countdown", numbers, target) == unseen:
                problems.append((numbers, target))
    return problems


def countdown_prompt(numbers, target):
    return f"numbers {' '.join(map(str, numbers))} target {target}\n"


def countdown_segments(numbers, target, first_bad, cut, rng):
    """A path of three steps; `first_bad` in 1..3 makes that step a wrong one (0: none); `cut` ends after it."""
    segments = [(countdown_prompt(numbers, target), 0.1)]
    state, lost = numbers, False
    for depth in (1, 2, 3):
        good, bad = _countdown_split(state, target)
        if lost:
            step = rng.choice(countdown_steps(state)) if countdown_steps(state) else None
        elif depth == first_bad and bad:
            step, lost = rng.choice(bad), True
        else:
            step = rng.choice(good)
        if step is None:  # no legal step is left (every result is too large)
            break
        a, op, b, value, state = step
        segments.append((f"{a} {op} {b}", 0.0 if lost else 1.0))
        segments.append((f" = {value} left {' '.join(map(str, state))} :", 1.0))
        segments.append((" bad" if lost else " ok", VERDICT_WEIGHT))
        finished = depth == 3 or (lost and cut)
        segments.append(("\n", 0.0 if lost and cut else 1.0))
        if finished:
            break
    return segments


def random_countdown(rng):
    numbers, target = rng.choice(countdown_problems(False))
    first_bad = rng.choices((0, 1, 2, 3), (0.42, 0.33, 0.17, 0.08))[0]
    return countdown_segments(numbers, target, first_bad, rng.random() < 0.65, rng)


def check_countdown(numbers, target, text):
    """True when the first three lines of `text` are legal steps that end at the target (verdicts ignored)."""
    state = sorted(numbers)
    for line in text.split("\n")[:3]:
        words = line.split(" : ")[0].split(" :")[0].split(" ")
        if len(words) < 7 or words[3] != "=" or words[5] != "left":
            return False
        try:
            a, b, value = int(words[0]), int(words[2]), int(words[4])
            left = sorted(int(w) for w in words[6:])
            state.remove(a)
            state.remove(b)
        except ValueError:
            return False
        exact = {
            "+": value == a + b,
            "-": value == a - b,
            "*": value == a * b,
            "/": b != 0 and value * b == a,
        }.get(words[1], False)
        state = sorted(state + [value])
        if not exact or left != state:
            return False
    return state == [target]


# -------------------------------------------------------------------- coins


def coins_prompt(coins, price):
    return f"coins {' '.join(map(str, coins))} price {price}\n"


def _coins_reachable(coins, need, picks):
    """True when `picks` more different coins add up to `need`."""
    if picks == 0:
        return need == 0
    if picks == 1:
        return need in coins
    return any(need - a in coins and need - a > a for a in coins)


def draw_coins(rng, unseen):
    while True:
        coins = tuple(sorted(rng.sample(range(1, COIN_MAX + 1), COIN_COUNT)))
        price = sum(rng.sample(coins, 3))
        if held_out("coins", coins, price) == unseen:
            return coins, price


def coins_segments(coins, price, first_bad, rng):
    segments = [(coins_prompt(coins, price), 0.1)]
    rest, need, lost = list(coins), price, False
    for picks in (2, 1, 0):
        good, bad = [], []
        for coin in rest:
            if coin <= need:
                others = [c for c in rest if c != coin]
                (good if _coins_reachable(others, need - coin, picks) else bad).append(coin)
        if not lost and good and not (3 - picks == first_bad and bad):
            coin = rng.choice(good)
        elif bad:
            coin, lost = rng.choice(bad), True
        else:
            break
        rest.remove(coin)
        need -= coin
        segments.append((f"take {coin}", 0.0 if lost else 1.0))
        segments.append((f" need {need} :", 1.0))
        segments.append((" bad" if lost else " ok", VERDICT_WEIGHT))
        segments.append(("\n", 1.0))
    return segments


def random_coins(rng):
    coins, price = draw_coins(rng, False)
    return coins_segments(coins, price, rng.choices((0, 1, 2, 3), (0.45, 0.3, 0.2, 0.05))[0], rng)


def check_coins(coins, price, text):
    rest, need = set(coins), price
    for line in text.split("\n")[:3]:
        words = line.split(" ")
        if len(words) < 4 or words[0] != "take" or words[2] != "need":
            return False
        if not (words[1].isdigit() and words[3].isdigit()) or int(words[1]) not in rest:
            return False
        rest.remove(int(words[1]))
        need -= int(words[1])
        if int(words[3]) != need:
            return False
    return need == 0


# -------------------------------------------------------------------- rules

RULES = {
    "up": sorted,
    "down": lambda xs: sorted(xs, reverse=True),
    "reverse": lambda xs: xs[::-1],
    "largest": lambda xs: [max(xs)],
    "smallest": lambda xs: [min(xs)],
    "first": lambda xs: xs[:1],
    "last": lambda xs: xs[-1:],
    "rotate": lambda xs: xs[1:] + xs[:1],
    "next": lambda xs: [x + 1 for x in xs],
    "double": lambda xs: [2 * x for x in xs],
    "without largest": lambda xs: [x for x in xs if x != max(xs)],
    "ends": lambda xs: [xs[0], xs[-1]],
}


def rule_line(rule, rng):
    """The prompt and the answer of one example of a hidden rule."""
    numbers = rng.sample(range(1, 46), rng.randint(3, 5))
    return f"list {' '.join(map(str, numbers))} gives", f" {' '.join(map(str, RULES[rule](numbers)))}"


def random_rule_lines(rng, count):
    """`count` examples of one rule; an answer counts fully once two examples have shown the rule."""
    rule = rng.choice(list(RULES))
    segments = []
    for index in range(count):
        prompt, answer = rule_line(rule, rng)
        segments += [(prompt, 0.1), (answer, 1.0 if index >= 2 else 0.3), ("\n", 1.0)]
    return segments


# ---------------------------------------------------------------- documents


def random_document(rng, max_problems):
    """Problems of one task, a blank line between two; rule examples follow one another without one."""
    kind = rng.random()
    if kind < 0.08:
        return random_rule_lines(rng, rng.randint(3, 6) if max_problems < 8 else rng.randint(6, 40))
    make = random_coins if kind < 0.23 else random_countdown
    count = 1 if rng.random() < 0.45 else rng.randint(2, max_problems)
    segments = make(rng)
    for _ in range(count - 1):
        segments.append(("\n", 0.3))
        segments += make(rng)
    return segments


def make_rng(*seed):
    return random.Random(" ".join(map(str, seed)))
