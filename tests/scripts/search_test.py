"""The arithmetic of scripts/search_table.py, weights_table.py and chart.py, and a few problems through a live server.

search_test.py FOLDER_OF_PROGRAMS [unittest options]
"""

import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from chart import Series, line_chart  # noqa: E402
from demo_model import tasks  # noqa: E402
from search_demo import intervals, measure, methods, problems, report, service  # noqa: E402

PROGRAMS = ""


class Intervals(unittest.TestCase):
    def test_wilson_gives_published_values(self):
        # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        for right, count, low, high in (
            (81, 263, 25.53, 36.62),
            (15, 148, 6.24, 16.05),
            (0, 20, 0, 16.11),
            (1, 29, 0.61, 17.18),
        ):
            got = intervals.wilson(right, count)
            self.assertAlmostEqual(got[0], low, places=1)
            self.assertAlmostEqual(got[1], high, places=1)

    def test_paired_counts_only_problems_that_differ(self):
        first = [True] * 60 + [False] * 40
        second = [True] * 40 + [False] * 60
        difference, low, high = intervals.paired(first, second)
        self.assertAlmostEqual(difference, 20.0)
        # p = 21/102, q = 1/102: 0.19608 -+ 1.96 * sqrt((0.21569 - 0.03845) / 102)
        self.assertAlmostEqual(low, 11.44, places=1)
        self.assertAlmostEqual(high, 27.78, places=1)
        self.assertAlmostEqual(intervals.paired(second, first)[0], -20.0)
        difference, low, high = intervals.paired(first, first)
        self.assertEqual(difference, 0)
        self.assertAlmostEqual(low, -high)


class Problems(unittest.TestCase):
    def test_halves_are_unseen_different_and_repeatable(self):
        for name, task in problems.TASKS.items():
            measured = task.problems(300, problems.MEASURE, 1)
            chosen_on = task.problems(300, problems.TUNE, 1)
            self.assertEqual(len(set(measured)), 300)
            self.assertFalse(set(measured) & set(chosen_on))
            self.assertTrue(all(tasks.held_out(name, *problem) for problem in measured + chosen_on))
            self.assertEqual(measured, task.problems(300, problems.MEASURE, 1))

    def test_more_problems_than_there_are_is_an_error(self):
        with self.assertRaisesRegex(ValueError, "countdown: there are only"):
            problems.TASKS["countdown"].problems(5000, problems.MEASURE, 1)


class Report(unittest.TestCase):
    def test_the_rival_takes_no_fewer_tokens_and_no_more_than_needed(self):
        outcomes = [measure.Outcome("sum of verdicts", "best of n", n, [True], [32 * n]) for n in (1, 2, 3, 4)]
        self.assertEqual(report.rival(outcomes, "sum of verdicts", 64).n, 2)
        self.assertEqual(report.rival(outcomes, "sum of verdicts", 65).n, 3)
        self.assertIsNone(report.rival(outcomes, "sum of verdicts", 129))

    def test_types_of_weights_are_compared_problem_by_problem(self):
        own = measure.Outcome("greedy", "greedy", 0, [True, True, False, False], [4, 4, 4, 4], list("abcd"))
        other = measure.Outcome("greedy", "greedy", 0, [True, False, True, True], [4, 4, 6, 2], list("axyd"))
        (row,) = report.weight_pairs([own], [other])
        self.assertEqual((row["own"]["right"], row["other"]["right"]), (2, 3))
        self.assertEqual((row["lost"], row["won"], row["texts"], row["difference"]), (1, 2, 2, 25))
        heads, line = report.weights_text("coins", [row], ["bfloat16", "int8"]).splitlines()[2:]
        self.assertIn("only bfloat16 right  only int8 right  other text", heads)
        self.assertRegex(line, r"^greedy +4 +50\.0 .* 4 +75\.0 .* \+25\.0 .* 1 +2 +2$")


class Chart(unittest.TestCase):
    def draw(self, points, **options):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "chart.svg"
            line_chart(path, [Series("a < b", points)], title="t", x_label="x", y_label="y", **options)
            return path.read_text(encoding="utf-8")

    def test_a_chart_is_the_same_each_time_and_escapes_names(self):
        points = [(30, 47.0, 42.7, 51.4), (900, 86)]
        text = self.draw(points, log_x=True)
        self.assertEqual(text, self.draw(points, log_x=True))
        self.assertIn("a &lt; b", text)
        self.assertEqual(text.count("<circle"), 3)  # two points and the legend

    def test_what_cannot_be_drawn_is_an_error(self):
        for points, options in (([], {}), ([(0, 1), (2, 2)], {"log_x": True}), ([(1, float("nan"))], {})):
            with self.assertRaises(ValueError):
                self.draw(points, **options)


class LiveServer(unittest.TestCase):
    def test_answers_hold_the_tokens_winners_and_verdicts_of_the_server(self):
        greedy, judged = methods.Plain("greedy", 1, 0.0), methods.judged("judged", 4)
        tree = methods.Stepwise("tree", (4, 2, 1), (2, 1, 1))
        with service.Service(PROGRAMS, ROOT / "model/demo") as server:
            for task in problems.TASKS.values():
                some = task.problems(5, problems.MEASURE, 1)
                right = 0
                # `ask` itself checks that the branches add up to the server's usage.
                for problem, answer in zip(some, measure.ask(server, task, some, 1, [greedy, judged, tree], 2)):
                    found = methods.candidates(answer, judged)
                    self.assertEqual(len(found), 4)
                    self.assertEqual([len(candidate.verdicts) for candidate in found], [3] * 4)
                    best = max(sum(candidate.verdicts) for candidate in found)
                    self.assertAlmostEqual(sum(methods.winner(answer, judged).verdicts), best, places=4)
                    self.assertEqual(methods.winner(answer, tree).text.count(" : ok"), 3)
                    self.assertGreater(methods.spent(answer, tree), methods.winner(answer, tree).tokens)
                    right += task.check(*problem, methods.winner(answer, tree).text)
                self.assertGreater(right, 0)

    def test_int8_weights_are_those_of_the_server_and_answer_much_the_same(self):
        task = problems.TASKS["countdown"]
        some = task.problems(10, problems.MEASURE, 1)
        answers = {}
        for weights in service.WEIGHTS:
            with service.Service(PROGRAMS, ROOT / "model/demo", weights=weights) as server:
                self.assertEqual(server.model_facts()["weights"], {"dtype": "bfloat16"}.get(weights, weights))
                tree = methods.Stepwise("tree", (8, 2, 1), (2, 2, 1))
                found = measure.ask(server, task, some, 1, [tree], 2)
                answers[weights] = [task.check(*p, methods.winner(a, tree).text) for p, a in zip(some, found)]
        for right in answers.values():
            self.assertGreaterEqual(sum(right), 5)  # 88 % with either

    def test_a_missing_program_is_named(self):
        with self.assertRaisesRegex(service.Failed, "nowhere/espalier: not there"):
            service.Service("nowhere", ROOT / "model/demo")


if __name__ == "__main__":
    PROGRAMS = sys.argv.pop(1) if len(sys.argv) > 1 else sys.exit(__doc__)
    unittest.main()
