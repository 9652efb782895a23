"""Accuracy on unseen problems by greedy decoding, sampling, tree search and best of n; checked exactly."""

import math
from dataclasses import dataclass
from typing import Callable

import torch

from . import search, tasks


@dataclass
class Task:
    """`step_tokens`: tokens of each step up to and with ` :`, a leading line break included."""

    name: str
    prompt: Callable
    check: Callable
    step_tokens: tuple
    problems: Callable


def unseen_countdown(count, rng):
    return rng.sample(tasks.countdown_problems(True), count)


def unseen_coins(count, rng):
    return [tasks.draw_coins(rng, True) for _ in range(count)]


COUNTDOWN = Task("countdown", tasks.countdown_prompt, tasks.check_countdown, (10, 10, 9), unseen_countdown)
COINS = Task("coins", tasks.coins_prompt, tasks.check_coins, (5, 6, 6), unseen_coins)
TREE = ((8, 8, 8), (5, 5, 1))


def best_of(n):
    return ((n, 1, 1), (n, n, 1))


def equal_budget(task):
    """The n for which best-of-n spends as many tokens as the tree."""
    grown = (8, 40, 40)
    tree = sum(width * (tokens + 1) for width, tokens in zip(grown, task.step_tokens))
    return round(tree / sum(tokens + 1 for tokens in task.step_tokens))


def methods(task):
    """(name, branches and keep or None, score, temperature)"""
    n = equal_budget(task)
    return [
        ("greedy", None, None, 0.0),
        ("greedy, ` ok` written for it behind each step", ((1, 1, 1), (1, 1, 1)), "sum", 0.0),
        ("one sample", None, None, 1.0),
        ("tree 8 / keep 5, sum of verdicts", TREE, "sum", 1.0),
        ("tree 8 / keep 5, latest verdict", TREE, "latest", 1.0),
        ("tree 8 / keep 5, log-probability", TREE, "logprob", 1.0),
        (f"best of {n}, sum of verdicts", best_of(n), "sum", 1.0),
        (f"best of {n}, latest verdict", best_of(n), "latest", 1.0),
        (f"best of {n}, log-probability", best_of(n), "logprob", 1.0),
    ]


def wilson(right, count):
    """95 % interval of a proportion (Wilson 1927), in per cent."""
    z, p = 1.96, right / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return 100 * (centre - half), 100 * (centre + half)


def solve(model, encoder, task, problems, shape, score, temperature, seed):
    """One truth value a problem, and the tokens spent on each."""
    decoder = search.Decoder(model, encoder, torch.Generator().manual_seed(seed))
    results, spent = [], 0
    for begin in range(0, len(problems), 64):
        part = problems[begin : begin + 64]
        prompts = [encoder.root(task.prompt(*p)) for p in part]
        if shape is None:
            spent = sum(task.step_tokens) + 3
            texts = [[text] for text in search.complete(decoder, prompts, spent, temperature)]
        else:
            texts, spent = search.search(decoder, prompts, task.step_tokens, *shape, score, temperature)
        results += [task.check(*p, found[0]) for p, found in zip(part, texts)]
    return results, spent


def table(model, encoder, task, count, seed):
    """Rows (method, right, count, low, high, tokens a problem)."""
    problems = task.problems(count, tasks.make_rng("evaluate", task.name, seed))
    rows = []
    for name, shape, score, temperature in methods(task):
        right, spent = solve(model, encoder, task, problems, shape, score, temperature, seed)
        rows.append((name, sum(right), count, *wilson(sum(right), count), spent))
        print(f"{task.name}: {name}: {100 * sum(right) / count:.1f} % of {count}, {spent} tokens", flush=True)
    return rows


def solved_examples(rng, count):
    """The text of solved Countdown problems, a blank line behind each: the start of a few-shot prompt."""
    texts = []
    for _ in range(count):
        numbers, target = rng.choice(tasks.countdown_problems(False))
        texts.append("".join(t for t, _ in tasks.countdown_segments(numbers, target, 0, False, rng)) + "\n")
    return "".join(texts)


def few_shot_table(model, encoder, count, seed):
    """Greedy behind solved examples, and the rules: (name, right, count, low, high, mean prompt tokens)."""
    rng = tasks.make_rng("few-shot", seed)
    decoder = search.Decoder(model, encoder, None)
    rows = []
    for shots in (0, 8, 14, 20):
        right = tokens = 0
        for numbers, target in unseen_countdown(count, rng):
            ids = encoder.root(solved_examples(rng, shots) + tasks.countdown_prompt(numbers, target))
            text = search.complete(decoder, [ids], sum(COUNTDOWN.step_tokens) + 3)[0]
            right += tasks.check_countdown(numbers, target, text)
            tokens += len(ids)
        name = f"Countdown, greedy, {shots} solved examples before"
        rows.append((name, right, count, *wilson(right, count), tokens // count))
        print(rows[-1], flush=True)
    for lines in (3, 8, 30):
        right = tokens = 0
        for index in range(count):
            rule = sorted(tasks.RULES)[index % len(tasks.RULES)]
            text = "".join("".join(tasks.rule_line(rule, rng)) + "\n" for _ in range(lines))
            prompt, answer = tasks.rule_line(rule, rng)
            ids = encoder.root(text + prompt)
            found = search.complete(decoder, [ids], len(encoder.inner(answer)) + 1)[0]
            right += found.lstrip(" ") == answer.lstrip(" ") + "\n"
            tokens += len(ids)
        name = f"rules, greedy, {lines} examples before"
        rows.append((name, right, count, *wilson(right, count), tokens // count))
        print(rows[-1], flush=True)
    return rows


def run(model, encoder, count, seed):
    """Everything the model card says, as plain values."""

    def rows(table_rows, last):
        keys = ("method", "right", "problems", "low", "high", last)
        return [dict(zip(keys, row)) for row in table_rows]

    return {
        "seed": seed,
        "countdown": rows(table(model, encoder, COUNTDOWN, count, seed), "tokens"),
        "coins": rows(table(model, encoder, COINS, count, seed), "tokens"),
        "few_shot": rows(few_shot_table(model, encoder, min(count, 120), seed), "prompt_tokens"),
    }
