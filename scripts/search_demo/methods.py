"""The ways to an answer as parts of a tree request, and what they found.

One request holds any number of ways side by side below the same prompt: the nodes of each are named "NAME/...".
"""

from dataclasses import dataclass

STEPS = 3
STEP_TOKENS = 14
TEXT_TOKENS = 40
SUM_VERDICTS = "SELECT_SCORE_SUM_VERDICTS"


@dataclass(frozen=True)
class Plain:
    """The model writes `samples` whole solutions, its own verdicts included. Temperature 0: greedy."""

    name: str
    samples: int
    temperature: float = 1.0

    def nodes(self):
        generate = {
            "branches": self.samples,
            "max_new_tokens": TEXT_TOKENS,
            "stop_strings": ["\n\n"],
            "sampling": {"temperature": self.temperature},
        }
        return [{"id": f"{self.name}/text", "parent_id": "problem", "generate": generate}]


@dataclass(frozen=True)
class Stepwise:
    """Each step is sampled up to its " :", then " ok" is scored: its log-probability is the model's verdict.

    `samples` a branch and branches `kept` for each step; kept None: all go on.
    """

    name: str
    samples: tuple
    kept: tuple

    def nodes(self):
        nodes, parent = [], "problem"
        for level, (samples, kept) in enumerate(zip(self.samples, self.kept), 1):
            generate = {"branches": samples, "max_new_tokens": STEP_TOKENS, "stop_strings": [" :"]}
            step, verdict, best = (f"{self.name}/{part}{level}" for part in ("step", "verdict", "best"))
            nodes.append({"id": step, "parent_id": parent, "generate": generate})
            nodes.append({"id": verdict, "parent_id": step, "given": {"text": " ok", "score": True}})
            parent = verdict
            if kept is not None:
                select = {"keep": kept, "score": SUM_VERDICTS}
                nodes.append({"id": best, "parent_id": verdict, "select": select})
                parent = best
        return nodes

    def shape(self):
        return f"{','.join(map(str, self.samples))} keep {','.join(map(str, self.kept))}"


def judged(name, samples):
    """Whole solutions, every step of each judged: forks at the first step alone, one selection at the end."""
    return Stepwise(name, (samples,) + (1,) * (STEPS - 1), (None,) * (STEPS - 1) + (1,))


def request(task, problem, seed, ways):
    root = {"id": "problem", "given": {"text": task.prompt(*problem)}}
    return {"seed": seed, "nodes": [root] + [node for way in ways for node in way.nodes()]}


@dataclass
class Candidate:
    """A whole solution; `tokens`: what it took, verdicts included; `verdicts`: of each step that was judged."""

    text: str
    tokens: int
    sum_logprob: float
    verdicts: list


def _candidate(path):
    """A step a line, as the model writes it."""
    lines, verdicts = [], []
    for branch in path:
        kind = branch.node.partition("/")[2].rstrip("0123456789")
        if kind == "verdict":
            lines[-1] += branch.text
            verdicts.append(branch.score)
        elif kind == "step":
            lines.append(branch.text.strip("\n") + (" :" if branch.finish_reason == "stop_string" else ""))
        else:
            lines.append(branch.text)
    return Candidate("\n".join(lines), sum(branch.tokens for branch in path), path[-1].sum_logprob, verdicts)


def winner(answer, way):
    """What the last selection of a Stepwise kept."""
    return _candidate(answer.path(answer.kept[f"{way.name}/best{STEPS}"][0]))


def candidates(answer, way):
    """All whole solutions of a Plain or of `judged`, in the order in which they were begun."""
    mine = [number for number, branch in sorted(answer.branches.items()) if branch.node.startswith(way.name + "/")]
    parents = {answer.branches[number].parent for number in mine}
    return [_candidate(answer.path(number)) for number in mine if number not in parents]


def spent(answer, way):
    """Tokens that a way took: generated ones, pruned or not, and verdicts."""
    return sum(branch.tokens for branch in answer.branches.values() if branch.node.startswith(way.name + "/"))
