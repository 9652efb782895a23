#!/usr/bin/env python3
"""The trees of configs/trees, grown by the client.

cli_tree_files_test.py BIN_FOLDER SOURCE_FOLDER [unittest arguments]
"""

import collections
import glob
import json
import os
import sys
import unittest

import cli_harness
from cli_harness import SOURCE, TREES, run

sys.path.insert(0, os.path.join(SOURCE, "scripts"))
from quickstart_check import countdown_fault  # noqa: E402


def grow(tree, *arguments):
    done = run("generate", "--tree", os.path.join(TREES, tree), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def path_text(events, tip):
    branches = {branch["branch"]: branch for branch in events[-1]["branches"]}
    text = ""
    while tip in branches:
        text = branches[tip]["text"] + text
        tip = branches[tip]["parent"]
    return text


def selections(events):
    return [event for event in events if event["event"] == "selected"]


class TreeFiles(unittest.TestCase):
    """Every tree in configs/trees, as it stands, gives what its header promises."""

    def test_every_file_has_a_header_and_a_test(self):
        files = {os.path.basename(path)[: -len(".json")] for path in glob.glob(os.path.join(TREES, "*.json"))}
        tested = {name[len("test_tree_") :] for name in dir(self) if name.startswith("test_tree_")}
        self.assertEqual(files, tested)
        for name in files:
            with open(os.path.join(TREES, name + ".json"), encoding="utf-8") as file:
                header = file.read().split("{")[0]
            self.assertIn(f"espalier generate --tree configs/trees/{name}.json", header)
            self.assertRegex(header, "[Ee]xpect")

    def test_tree_few_shot(self):
        events = grow("few_shot.json")
        self.assertEqual(events[0]["prompt_tokens"], 387)
        self.assertEqual(len(events[-1]["branches"]), 16)
        usage = events[-1]["usage"]
        self.assertLess(usage["kv_read_bytes"], usage["kv_read_bytes_sequence"] / 4)

    def test_tree_greedy(self):
        branches = grow("greedy.json")[-1]["branches"]
        self.assertEqual(len(branches), 1)
        self.assertIn(" : bad", branches[0]["text"])

    def test_tree_tree_of_thoughts(self):
        events = grow("tree_of_thoughts.json")
        self.assertEqual([len(event["kept"]) for event in selections(events)], [4, 4, 1])
        self.assertIn(" left 31 ok", path_text(events, selections(events)[-1]["kept"][0]))

    def test_tree_best_of_n(self):
        events = grow("best_of_n.json")
        (selected,) = selections(events)
        self.assertEqual(len(selected["scores"]), 24)
        self.assertEqual(max(selected["scores"]), selected["scores"][0])
        best = path_text(events, selected["kept"][0])
        self.assertEqual(best.count(" ok"), 3)
        self.assertIn(" left 31 ok", best)

    def test_tree_beam(self):
        events = grow("beam.json")
        self.assertEqual([len(event["kept"]) for event in selections(events)], [3, 3, 1])
        self.assertEqual([len(event["scores"]) for event in selections(events)], [6, 18, 18])
        self.assertEqual(path_text(events, selections(events)[-1]["kept"][0]).count(" ok"), 3)

    def test_tree_self_consistency(self):
        branches = grow("self_consistency.json")[-1]["branches"]
        self.assertEqual(len(branches), 12)
        (answer, votes), *_ = collections.Counter(branch["text"] for branch in branches).most_common(1)
        self.assertEqual(answer, " 41 22 13 9")
        self.assertGreater(votes, 6)

    def test_tree_scoring(self):
        events = grow("scoring.json")
        self.assertEqual(events[-1]["usage"]["generated_tokens"], 0)
        scores = {}
        for event in events:
            for branch in event.get("branches", []) if event["event"] == "delta" else []:
                if branch["node"].startswith("verdict"):
                    scores[branch["node"]] = sum(branch["logprobs"])
        self.assertGreater(scores["verdict1"], -0.5)
        self.assertGreater(scores["verdict2"], -0.5)
        self.assertLess(scores["verdict3"], -4)

    def test_the_problem_can_be_set_and_the_best_path_alone_be_printed(self):
        tree = os.path.join(TREES, "tree_of_thoughts.json")
        done = run("generate", "--tree", tree, "--best", "--set", "problem.text=numbers 2 5 6 9 target 33\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIsNone(countdown_fault([2, 5, 6, 9], 33, done.stdout))

    def test_a_tree_is_read_from_standard_input(self):
        with open(os.path.join(TREES, "greedy.json"), encoding="utf-8") as file:
            done = run("generate", "--tree", "-", "--json", text=file.read())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout.splitlines()[-1])["branches"], grow("greedy.json")[-1]["branches"])


if __name__ == "__main__":
    cli_harness.main()
