"""Problems that the demo model was never trained on, in two halves: one to choose shapes of trees, one to measure."""

import zlib
from dataclasses import dataclass
from typing import Callable

from demo_model import tasks

MEASURE, TUNE = "measure", "tune"


@dataclass(frozen=True)
class Task:
    """`check(numbers, target, text)`: exact; `unseen(rng)`: an endless stream of held-out problems."""

    name: str
    prompt: Callable
    check: Callable
    unseen: Callable

    def problems(self, count, half, seed):
        """`count` different problems (numbers, target) of one half."""
        rng = tasks.make_rng("search table", self.name, half, seed)
        found = {}
        for problem in self.unseen(rng):
            if half_of(self.name, *problem) == half:
                found.setdefault(problem)
                if len(found) == count:
                    return list(found)
        raise ValueError(f"{self.name}: there are only {len(found)} problems of the half '{half}', not {count}")


def half_of(name, numbers, target):
    key = f"half of {name} {' '.join(map(str, numbers))} {target}"
    return (MEASURE, TUNE)[zlib.crc32(key.encode()) & 1]


def _unseen_countdown(rng):
    problems = list(tasks.countdown_problems(True))
    rng.shuffle(problems)
    yield from problems


def _unseen_coins(rng):
    while True:
        yield tasks.draw_coins(rng, True)


TASKS = {
    task.name: task
    for task in (
        Task("countdown", tasks.countdown_prompt, tasks.check_countdown, _unseen_countdown),
        Task("coins", tasks.coins_prompt, tasks.check_coins, _unseen_coins),
    )
}
