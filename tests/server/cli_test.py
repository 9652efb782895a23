#!/usr/bin/env python3
"""The client as people and scripts use it: mistakes, commands, timeouts.

cli_test.py BIN_FOLDER SOURCE_FOLDER [unittest arguments]
"""

import json
import os
import re
import signal
import socket
import subprocess
import unittest

import cli_harness
from cli_harness import CLIENT, DEADLINE_S, LONG, SERVER, SOURCE, TREES, environment, idle, run, wait_until


class Mistakes(unittest.TestCase):
    def refused(self, code, words, *arguments, text=None):
        done = run(*arguments, text=text)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertIn(words, done.stderr)

    def test_numbers_that_are_none_or_do_not_fit_name_their_flag(self):
        for flag, value in (
            ("--seed", "-1"),
            ("--seed", "18446744073709551616"),
            ("--seed", "1e3"),
            ("--branches", "0"),
            ("--branches", "99999999999"),
            ("--max-new-tokens", "0x10"),
            ("--temperature", "nan"),
            ("--temperature", "101"),
            ("--top-k", "-3"),
            ("--top-p", "0"),
            ("--min-p", "1.01"),
            ("--timeout", "0"),
            ("--timeout", "-1"),
            ("--timeout", "nan"),
            ("--timeout", "inf"),
            ("--timeout", "soon"),
            ("--timeout", "86401"),
            ("--top-logprobs", "21"),
            ("--prompt-lines", "x"),
            ("--width", "3"),
            ("--color", "sometimes"),
        ):
            with self.subTest(flag=flag, value=value):
                self.refused(2, f"error: {flag}: ", "generate", "--prompt", "x", flag, value)
        self.refused(2, "error: --top-logprobs: ", "score", "--top-logprobs", "-1")
        self.refused(2, "error: --watch: ", "stats", "--watch", "0")
        self.refused(2, "error: --ids: ", "detokenize", "--ids", "3,-4")

    def test_score_says_what_is_missing_or_mixed(self):
        self.refused(2, "needs --prompt or --prompt-ids", "score", "--continuation", "x")
        self.refused(2, "takes only one of --prompt and --prompt-ids", "score", "--prompt", "x", "--prompt-ids", "1")
        self.refused(2, "needs --continuation, --continuation-ids or --jsonl", "score", "--prompt", "x")
        self.refused(2, "line 2: token ids, and those before it are texts", "score", "--prompt", "x", "--jsonl",
                     text='"a"\n[1]\n')
        self.refused(2, "line 1: must be a string or an array", "score", "--prompt", "x", "--jsonl", text="{}\n")
        self.refused(2, " excludes --", "tokenize", "--text", "x", "--continues", "--bos")

    def test_the_largest_seed_is_taken(self):
        done = run("generate", "--prompt", "list 5 8 gives", "--seed", str(2**64 - 1), "--json")
        self.assertEqual(json.loads(done.stdout.splitlines()[0])["seed"], 2**64 - 1)

    def test_misspelt_words_are_recognised(self):
        self.refused(2, "did you mean generate?", "genrate")
        self.refused(2, "did you mean generate?", "genrate", "--help")
        self.refused(2, "did you mean stats?", "help", "stat")
        self.refused(2, "did you mean --branches?", "generate", "--prompt", "x", "--branchs", "3")
        self.refused(
            2,
            "standard input:1:2: no such field 'node'; did you mean 'nodes'?",
            "generate",
            "--tree",
            "-",
            text='{"node": []}',
        )

    def test_what_the_server_refuses_is_found_in_the_file(self):
        tree = '{"nodes": [{"id": "a", "given": {"text": "x"}},\n{"id": "b", "parent_id": "a", "generate": {"branches": -3}}]}'
        self.refused(1, "nodes[1].generate.branches: ", "generate", "--tree", "-", text=tree)
        self.refused(1, "It stands at standard input:2:56", "generate", "--tree", "-", text=tree)

    def test_what_the_server_refuses_is_found_among_the_flags(self):
        for flag, value in (("--branches", "2000000"), ("--max-new-tokens", "2000000"), ("--prompt-ids", "1,999999")):
            with self.subTest(flag=flag):
                prompt = [] if flag == "--prompt-ids" else ["--prompt", "x"]
                self.refused(1, f"It stands at {flag}\n", "generate", *prompt, flag, value)
        self.refused(1, "It stands at --prompt\n", "generate", "--prompt", b"\xff")
        self.refused(1, "It stands at --stop\n", "generate", "--prompt", "x", "--stop", "")

    def test_addresses_without_a_port_or_with_a_scheme_are_understood_or_explained(self):
        self.refused(3, "no server answers at 127.0.0.7:50051", "health", "--server", "127.0.0.7")
        self.refused(2, "without http://, got 'http://localhost:50051'", "health", "--server", "http://localhost:50051")
        self.refused(2, "--host: not understood; the address of the server is --server HOST:PORT", "health", "--host", "x")

    def test_a_server_that_has_stopped_is_waited_for_only_so_long(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:  # the system takes the connection, nothing answers
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            self.refused(3, f"no server answers at {address}", "generate", "--prompt", "x", "--server", address)

    def test_a_setting_that_is_no_text_is_refused(self):
        tree = os.path.join(TREES, "beam.json")
        self.refused(
            2, "--set: problem.text: not valid UTF-8", "generate", "--tree", tree, "--set", b"problem.text=\xff"
        )

    def test_what_the_server_refuses_is_found_among_what_was_set(self):
        tree = os.path.join(TREES, "beam.json")
        self.refused(
            1, "It stands at --set step1.branches\n", "generate", "--tree", tree, "--set", "step1.branches=99999"
        )

    def test_flags_are_given_once(self):
        self.refused(2, "error: --branches: given more than once\n", "generate", "--branches", "1", "--branches", "2")

    def test_an_address_of_the_environment_is_told_from_the_flags(self):
        self.assertIn("error: ESPALIER_SERVER: must be HOST:PORT", run("health", env={"ESPALIER_SERVER": "x:y"}).stderr)
        self.assertNotIn("HOST:PORT with", run("health", env={"ESPALIER_SERVER": ""}).stderr)

    def test_an_address_is_no_url(self):
        self.refused(
            2, "error: --server: must be HOST:PORT", "--server", "http://" + cli_harness.server.address, "health"
        )

    def test_output_that_cannot_be_written_is_no_success(self):
        for command in (["generate", "--prompt", "x"], ["model"], ["health"], ["--help"], ["completion", "zsh"]):
            with self.subTest(command=command), open("/dev/full", "w", encoding="utf-8") as full:
                done = subprocess.run([CLIENT, *command], env=environment(), stdout=full, stderr=subprocess.PIPE)
                self.assertEqual(done.returncode, 1)
                self.assertEqual(done.stderr, b"error: standard output: cannot be written\n")
        closed = subprocess.run(
            ["sh", "-c", '"$0" model >&-', CLIENT], env=environment(), stderr=subprocess.PIPE, check=False
        )
        self.assertEqual((closed.returncode, closed.stderr), (1, b"error: standard output: cannot be written\n"))

    def test_without_a_server_the_way_to_one_is_told(self):
        for command in (["health"], ["stats"], ["model"], ["generate", "--prompt", "x"], ["stats", "--watch"]):
            with self.subTest(command=command):
                self.refused(
                    3, "espalier-server --model model/demo --listen 127.0.0.1:1", "--server", "127.0.0.1:1", *command
                )


    def test_nothing_that_others_wrote_steers_a_terminal(self):
        evil = "x\x1b]0;pwned\x07\u009b31m\u202e"
        tree = {"nodes": [{"id": "p", "given": {"text": "a"}}, {"id": "g", "parent_id": evil, "generate": {}}]}
        for faulty in (tree, {"nodes": [{evil: 1}]}):
            done = run("generate", "--tree", "-", text=json.dumps(faulty))
            self.assertIn(done.returncode, (1, 2))
            for control in ("\x1b", "\x07", "\u009b", "\u202e"):
                self.assertNotIn(control, done.stdout + done.stderr)


class Servers(unittest.TestCase):
    def test_admin_is_another_address_and_a_chosen_one_is_required(self):
        model = ["--model", os.path.join(SOURCE, "model", "demo"), "--listen", "127.0.0.1:0"]
        taken = cli_harness.server.address
        done = subprocess.run(
            [SERVER, *model, "--admin-listen", taken], capture_output=True, encoding="utf-8", timeout=DEADLINE_S
        )
        self.assertEqual(done.returncode, 2)
        self.assertEqual(
            done.stderr, f"error: --admin-listen: cannot listen at {taken}: Address already in use\n"
        )

    def test_an_address_that_cannot_be_had_is_refused_with_the_reason(self):
        for address, why in (
            (cli_harness.server.address, "Address already in use"),
            ("192.0.2.1:50051", "Cannot assign requested address"),
        ):
            with self.subTest(address=address):
                command = [SERVER, "--model", os.path.join(SOURCE, "model", "demo"), "--listen", address]
                command += ["--admin-listen", "off"]
                done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=DEADLINE_S, check=False)
                self.assertEqual(done.returncode, 2)
                self.assertEqual(done.stderr, f"error: --listen: cannot listen at {address}: {why}\n")


class Commands(unittest.TestCase):
    def test_health(self):
        self.assertEqual((run("health").returncode, run("health").stdout), (0, "serving\n"))

    def test_admin_is_found_by_the_server_or_named(self):
        admin = json.loads(run("model", "--json").stdout)["admin_address"]
        self.assertNotEqual(admin, cli_harness.server.address)
        self.assertEqual(run("stats", "--json", "--admin", admin, "--server", "127.0.0.1:1").returncode, 0)
        self.assertEqual(run("stats", "--json", "--server", "127.0.0.1:1", env={"ESPALIER_ADMIN": admin}).returncode, 0)
        done = run("stats", "--admin", "127.0.0.1:1")
        self.assertEqual(done.returncode, 3)
        self.assertIn("error: no AdminService answers at 127.0.0.1:1 (", done.stderr)
        done = run("stats", "--admin", cli_harness.server.address)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"does not listen here but at {admin}", done.stderr)
        self.assertIn("error: --admin: must be HOST:PORT", run("stats", "--admin", "x:y").stderr)

    def test_snapshot_and_flush(self):
        tree = json.dumps(
            {
                "cache_namespace": "tests of flush",
                "nodes": [
                    {"id": "p", "given": {"text": "list 5 8 18 37 41 52 63 74 85 96 gives" * 4}},
                    {"id": "g", "parent_id": "p", "generate": {"max_new_tokens": 2}},
                ],
            }
        )
        self.assertEqual(run("generate", "--tree", "-", text=tree).returncode, 0)
        nodes = json.loads(run("snapshot", "--json").stdout)["nodes"]
        self.assertTrue(any(node["indexed"] for node in nodes))
        self.assertFalse(any(node["first_token_ids"] for node in nodes))
        self.assertEqual(len(run("snapshot").stdout.splitlines()), len(nodes) + 1)
        with_tokens = json.loads(run("snapshot", "--tokens", "--json").stdout)["nodes"]
        self.assertTrue(all(node["first_token_ids"] for node in with_tokens))
        self.assertGreater(json.loads(run("flush", "--json").stdout)["blocks_freed"], 0)
        self.assertEqual(json.loads(run("stats", "--json").stdout)["blocks_indexed"], 0)

    def score(self, *arguments, text=None):
        done = run("score", *arguments, "--json", text=text)
        self.assertEqual(done.returncode, 0, done.stderr)
        *scores, usage = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(
            list(usage["usage"]), ["prompt_tokens", "cached_tokens", "computed_tokens", "distinct_tokens"]
        )
        return scores, usage["usage"]

    def test_score_by_text_says_what_the_tree_says(self):
        prompt = "numbers 2 3 8 12 target 31\n12 + 3 = 15 left 2 8 15 :"
        texts = [" ok", "ok", " no"]
        nodes = [{"id": "prompt", "given": {"text": prompt}}]
        nodes += [{"id": t, "parent_id": "prompt", "given": {"text": t, "score": True}} for t in texts]
        tree = run("generate", "--tree", "-", "--json", text=json.dumps({"nodes": nodes}))
        finished = json.loads(tree.stdout.splitlines()[-1])
        flags = [word for text in texts for word in ("--continuation", text)]
        scores, usage = self.score("--prompt", prompt, *flags, "--cache-bypass", "--label-softmax")
        for score, branch in zip(scores, finished["branches"]):
            self.assertEqual(score["token_ids"], branch["token_ids"])
            self.assertAlmostEqual(score["sum_logprob"], branch["verdict"], places=4)
        self.assertGreater(scores[0]["sum_logprob"], -0.5)
        self.assertAlmostEqual(sum(score["label_softmax"] for score in scores), 1.0)
        self.assertEqual(usage["computed_tokens"], usage["distinct_tokens"])
        lines = "\n".join(json.dumps(text) for text in texts)
        self.assertEqual([s["token_ids"] for s in self.score("--prompt", prompt, "--jsonl", text=lines)[0]],
                         [s["token_ids"] for s in scores])
        ids = "\n".join(json.dumps(score["token_ids"]) for score in scores)
        by_ids, _ = self.score("--prompt", prompt, "--jsonl", text=ids)
        self.assertAlmostEqual(by_ids[0]["sum_logprob"], scores[0]["sum_logprob"], places=4)

    def test_a_text_that_continues_has_the_same_tokens_here_and_at_the_server(self):
        local = ["--tokenizer", os.path.join(SOURCE, "model", "demo")]
        for flags in ([], ["--continues"]):
            here = json.loads(run("tokenize", "--text", "ok", *flags, *local, "--json").stdout)
            there = json.loads(run("tokenize", "--text", "ok", *flags, "--json").stdout)
            self.assertEqual(here, there)
        self.assertEqual(there["pieces"][0][0], "o")

    def test_detokenize_tells_pieces_too(self):
        tokens = json.loads(run("tokenize", "--text", "numbers 5 8", "--json").stdout)
        back = json.loads(run("detokenize", "--ids", ",".join(map(str, tokens["token_ids"])), "--json").stdout)
        self.assertEqual(back, tokens)

    def test_stats_watch_prints_a_line_each_time_until_interrupted(self):
        watch = subprocess.Popen(
            [CLIENT, "stats", "--watch", "0.1"], env=environment(), stdout=subprocess.PIPE, encoding="utf-8"
        )
        header = watch.stdout.readline()
        self.assertTrue(header.startswith("tokens/s"), header)
        for _ in range(2):
            self.assertEqual(len(watch.stdout.readline()), len(header))
        watch.send_signal(signal.SIGINT)
        self.assertEqual(watch.wait(DEADLINE_S), 0)
        watch.stdout.close()

    def test_help_fits_eighty_columns(self):
        commands = re.findall(
            r"^  (\w+) {2,}", run("--help").stdout.split("Commands\n")[1].split("\n\n")[0], flags=re.M
        )
        self.assertIn("completion", commands)
        for command in [[], *([name] for name in commands)]:
            text = run(*command, "--help").stdout
            with self.subTest(command=command):
                self.assertLessEqual(max(map(len, text.splitlines())), 80)
                for part in ("Usage\n", "Examples\n", "Exit codes\n", "--server HOST:PORT"):
                    self.assertIn(part, text)

    def test_the_seed_that_the_server_chose_is_reported_and_grows_the_tree_again(self):
        arguments = ["generate", "--prompt", "list 5 8 18 37 gives", "--branches", "6"]
        drawn = run(*arguments).stdout
        seed = re.search(r"^--seed (\d+) grows this tree again$", drawn, flags=re.M).group(1)
        tree = [line for line in drawn.splitlines() if line.startswith(("├", "└"))]
        again = run(*arguments, "--seed", seed).stdout
        self.assertEqual([line for line in again.splitlines() if line.startswith(("├", "└"))], tree)
        self.assertEqual(len(tree), 6)
        self.assertNotIn("--seed", again)

    def test_help_is_a_command_too(self):
        self.assertEqual(run("help").stdout, run("--help").stdout)
        self.assertEqual(run("help", "stats").stdout, run("stats", "--help").stdout)

    def test_colours(self):
        arguments = ["generate", "--tree", os.path.join(TREES, "greedy.json")]
        for coloured, more, env in (
            (False, [], {}),
            (True, [], {"CLICOLOR_FORCE": "1"}),
            (False, [], {"CLICOLOR_FORCE": "0"}),
            (False, [], {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}),
            (True, ["--color", "always"], {"NO_COLOR": "1"}),
            (False, ["--color", "never"], {"CLICOLOR_FORCE": "1"}),
        ):
            with self.subTest(more=more, env=env):
                self.assertEqual("\x1b[" in run(*arguments, *more, env=env).stdout, coloured)


class Timeouts(unittest.TestCase):
    def test_a_tree_that_runs_out_of_time_says_how_far_it_got_and_leaves_nothing_on_the_server(self):
        for form in ([], ["--best"], ["--json"]):
            with self.subTest(form=form):
                done = run(*LONG, "--timeout", "0.5", *form)
                self.assertEqual(done.returncode, 1, done.stderr)
                reached = re.search(
                    r"not finished after --timeout 0\.5 seconds \(200 of 200 branches growing, (\d+) tokens\); "
                    r"the request was cancelled on the server\n$",
                    done.stderr,
                )
                self.assertIsNotNone(reached, done.stderr)
                self.assertGreaterEqual(int(reached.group(1)), 200)
                wait_until(idle)
                if form == ["--json"]:
                    self.assertEqual(json.loads(done.stdout.splitlines()[-1])["code"], "DEADLINE_EXCEEDED")
                elif form == ["--best"]:
                    self.assertEqual(done.stdout, "")
                else:
                    self.assertGreaterEqual(len(done.stdout.splitlines()), 200)

    def test_a_tree_that_is_finished_in_time_is_as_without_a_limit(self):
        arguments = ["generate", "--prompt", "list 5 8 18 37 gives", "--seed", "7"]
        done = run(*arguments, "--timeout", "60")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[:2], run(*arguments).stdout.splitlines()[:2])

    def test_a_server_that_says_nothing_is_not_waited_for(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = "127.0.0.1:" + str(silent.getsockname()[1])
            done = run("generate", "--prompt", "x", "--timeout", "0.3", "--server", address)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("(waiting for the server)", done.stderr)


if __name__ == "__main__":
    cli_harness.main()
