"""Runs all methods on the same problems and gathers what came out."""

import concurrent.futures
import sys
from dataclasses import dataclass, field

from . import methods
from .methods import Plain, Stepwise, judged

# Samples of best-of-n, which takes the first n of these: about 2000 tokens.
MOST_JUDGED = {"countdown": 64, "coins": 100}
MOST_TEXTS = {"countdown": 90, "coins": 100}

# Chosen on the half of the unseen problems that is not measured (see problems.py), small to large.
LADDER = {
    "countdown": (
        ((4, 1, 1), (1, 1, 1)),
        ((4, 2, 1), (2, 1, 1)),
        ((8, 2, 1), (2, 2, 1)),
        ((16, 2, 1), (4, 4, 1)),
        ((16, 2, 1), (8, 8, 1)),
        ((24, 3, 2), (10, 12, 1)),
        ((48, 4, 1), (24, 32, 1)),
    ),
    "coins": (
        ((3, 2, 1), (1, 1, 1)),
        ((4, 2, 1), (2, 1, 1)),
        ((6, 2, 1), (3, 3, 1)),
        ((8, 3, 1), (4, 4, 1)),
        ((12, 3, 1), (6, 6, 1)),
        ((24, 3, 2), (10, 12, 1)),
        ((48, 4, 1), (24, 32, 1)),
    ),
}
BEAM = ((8, 8, 8), (5, 5, 1))

COSTS = ("tokens", "steps", "total_us", "kv_read_bytes", "kv_read_bytes_sequence")

# How best-of-n ranks its samples. Where the model has written whole solutions, its own verdicts are among their tokens.
OWN_VERDICTS = ("log-probability", "mean log-probability")
RANKINGS = {
    "sum of verdicts": lambda c: sum(c.verdicts),
    "latest verdict": lambda c: c.verdicts[-1],
    "log-probability": lambda c: c.sum_logprob,
    "mean log-probability": lambda c: c.sum_logprob / c.tokens,
}


@dataclass
class Outcome:
    """One method on all problems: truth value, tokens and text of each. `n`: of best-of-n, else 0."""

    kind: str
    name: str
    n: int = 0
    right: list = field(default_factory=list)
    spent: list = field(default_factory=list)
    texts: list = field(default_factory=list)

    @property
    def tokens(self):
        """Mean of a problem."""
        return sum(self.spent) / len(self.spent)

    @property
    def percent(self):
        return 100 * sum(self.right) / len(self.right)


def ways(task, best_of_n=True):
    """Everything that is asked of the server for a problem, in one request; without best-of-n no samples for it."""
    samples = {"texts": Plain("texts", MOST_TEXTS[task.name]), "judged": judged("judged", MOST_JUDGED[task.name])}
    return {
        "greedy": Plain("greedy", 1, 0.0),
        **(samples if best_of_n else {}),
        "beam": Stepwise("beam", *BEAM),
        "trees": [Stepwise(f"tree{index}", *shape) for index, shape in enumerate(LADDER[task.name])],
    }


def requested(asked):
    return [way for entry in asked.values() for way in (entry if isinstance(entry, list) else [entry])]


def ask(service, task, problems, seed, wanted, jobs):
    """Answers in the order of the problems; `jobs` requests are under way at a time."""

    def one(index):
        answer = service.generate(methods.request(task, problems[index], seed + index, wanted))
        if sum(methods.spent(answer, way) for way in wanted) != answer.spent:
            raise AssertionError("the branches do not add up to the tokens of the server's usage")
        return answer

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for index, answer in enumerate(pool.map(one, range(len(problems))), 1):
            if index % 50 == 0:
                print(f"{task.name}: {index} of {len(problems)} problems", file=sys.stderr, flush=True)
            yield answer


def measure(service, task, problems, seed, jobs, best_of_n=True):
    """An Outcome for each method and, of best-of-n, each n."""
    asked, outcomes = ways(task, best_of_n), {}

    def add(problem, kind, name, n, text, tokens):
        outcome = outcomes.setdefault((name, n), Outcome(kind, name, n))
        outcome.texts.append(text)
        outcome.right.append(task.check(*problem, text))
        outcome.spent.append(tokens)

    def add_samples(problem, texts, steps):
        add(problem, "sample", "one sample", 0, texts[0].text, texts[0].tokens)
        for kind, key in RANKINGS.items():
            best, tokens = None, 0
            for n, candidate in enumerate(texts if kind in OWN_VERDICTS else steps, 1):
                tokens += candidate.tokens
                best = candidate if best is None or key(candidate) > key(best) else best
                add(problem, kind, f"best of n, {kind}", n, best.text, tokens)

    for problem, answer in zip(problems, ask(service, task, problems, seed, requested(asked), jobs)):
        (greedy,) = methods.candidates(answer, asked["greedy"])
        add(problem, "greedy", "greedy", 0, greedy.text, greedy.tokens)
        if best_of_n:
            add_samples(problem, *(methods.candidates(answer, asked[kind]) for kind in ("texts", "judged")))
        for way in [asked["beam"], *asked["trees"]]:
            kind = "beam" if way is asked["beam"] else "tree"
            add(problem, kind, f"tree {way.shape()}", 0, methods.winner(answer, way).text, methods.spent(answer, way))
    return list(outcomes.values())


def costs(service, task, problems, seed, wanted):
    """Of each (name, way), asked alone and in turn: means a problem of the server's own usage."""
    totals = {name: dict.fromkeys(COSTS, 0) for name, _ in wanted}
    for index, _ in enumerate(problems):
        for name, way in wanted:
            (answer,) = ask(service, task, problems[index : index + 1], seed + index, [way], 1)
            for key in COSTS:
                totals[name][key] += answer.spent if key == "tokens" else answer.usage[key]
    return [
        {"method": name, **{key: total / len(problems) for key, total in row.items()}} for name, row in totals.items()
    ]
