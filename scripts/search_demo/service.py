"""The server and its client as a script uses them: the server on a free port, a client process for each request."""

import json
import os
import pathlib
import subprocess
import tempfile
import time
from dataclasses import dataclass

START_SECONDS = 60
WEIGHTS = ("dtype", "int8")


class Failed(Exception):
    """What went wrong, in a line for the user."""


@dataclass
class Branch:
    """A branch of an answer; `score`: log-probability of its own tokens, generated or given and scored."""

    node: str
    parent: int
    tokens: int
    text: str
    finish_reason: str
    sum_logprob: float
    score: float = 0.0


@dataclass
class Answer:
    """`kept`: of each selection, best first; `spent`: generated tokens and those of given nodes below the root."""

    branches: dict
    kept: dict
    usage: dict
    spent: int

    def path(self, number):
        """The branches from below the root to this one."""
        path = []
        while number in self.branches:
            path.append(self.branches[number])
            number = path[-1].parent
        return path[::-1]


def read_answer(lines):
    """An Answer from the client's JSON lines."""
    kept, scores, started, finished = {}, {}, None, None
    for event in map(json.loads, lines):
        if event["event"] == "delta":
            for entry in event["branches"]:
                if entry["logprobs"]:
                    scores[entry["branch"]] = scores.get(entry["branch"], 0.0) + sum(entry["logprobs"])
        elif event["event"] == "selected":
            kept[event["node"]] = event["kept"]
        elif event["event"] == "started":
            started = event
        elif event["event"] == "finished":
            finished = event
    if started is None or finished is None:
        raise Failed("the client ended without the events 'started' and 'finished'")
    branches = {
        entry["branch"]: Branch(
            entry["node_path"][-1],
            entry["parent"],
            len(entry["token_ids"]),
            entry["text"],
            entry["finish_reason"],
            entry["sum_logprob"],
            scores.get(entry["branch"], 0.0),
        )
        for entry in finished["branches"]
    }
    usage = finished["usage"]
    spent = usage["generated_tokens"] + usage["prompt_tokens"] - started["prompt_tokens"]
    return Answer(branches, kept, usage, spent)


class Service:
    """A server of its own in `with`, with this type of weights, or a running one at `address`, which has its own."""

    def __init__(self, programs, model, address=None, weights="dtype"):
        self.client, self.server = (pathlib.Path(programs) / name for name in ("espalier", "espalier-server"))
        self.model, self.weights, self.address, self.process = model, weights, address, None
        for program in (self.client,) if address else (self.client, self.server):
            if not os.access(program, os.X_OK):
                raise Failed(f"{program}: not there; build it: scripts/build.sh release espalier-server espalier")

    def __enter__(self):
        if self.address:
            return self
        self.folder = tempfile.TemporaryDirectory(prefix="espalier-search-")
        port, log = (pathlib.Path(self.folder.name) / name for name in ("port", "log"))
        command = [self.server, "--model", self.model, "--weights", self.weights]
        command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--port-file", port]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(command, stderr=file)
        deadline = time.monotonic() + START_SECONDS
        while not (port.exists() and port.read_text().strip()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise Failed(f"the server did not start: {log.read_text().strip() if log.exists() else ''}")
            time.sleep(0.05)
        self.address = f"127.0.0.1:{port.read_text().strip()}"
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None
            self.folder.cleanup()

    def call(self, *arguments, text=""):
        """Lines of the client's standard output."""
        run = subprocess.run(
            [self.client, *arguments],
            input=text,
            capture_output=True,
            text=True,
            env={**os.environ, "ESPALIER_SERVER": self.address},
        )
        if run.returncode != 0:
            raise Failed(f"espalier {' '.join(arguments)}: {run.stderr.strip()}")
        return run.stdout.splitlines()

    def generate(self, request):
        return read_answer(self.call("generate", "--tree", "-", "--json", text=json.dumps(request)))

    def model_facts(self):
        return json.loads("\n".join(self.call("model", "--json")))

    def stats(self):
        return json.loads("\n".join(self.call("stats", "--json")))
