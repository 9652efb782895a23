#!/usr/bin/env python3
"""The client as people use it: with a live server, tree files, shells and pseudo terminals.

cli_test.py BIN_FOLDER SOURCE_FOLDER [unittest arguments]
"""

import collections
import fcntl
import glob
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

BIN, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
CLIENT = os.path.join(BIN, "espalier")
SERVER = os.path.join(BIN, "espalier-server")
TREES = os.path.join(SOURCE, "configs", "trees")
DEADLINE_S = 60
LONG = ["generate", "--prompt", "list 5 8 gives", "--branches", "200", "--max-new-tokens", "1000", "--ignore-eos"]
server = None


class Server:
    def __init__(self):
        self.folder = tempfile.mkdtemp()
        port_file = os.path.join(self.folder, "port")
        command = [SERVER, "--model", os.path.join(SOURCE, "model", "demo"), "--listen", "127.0.0.1:0"]
        command += ["--port-file", port_file, "--log-level", "error", "--kv-cache-bytes", "67108864", "--threads", "1"]
        self.process = subprocess.Popen(command)
        wait_until(lambda: os.path.exists(port_file) and os.path.getsize(port_file) > 0)
        with open(port_file, encoding="utf-8") as file:
            self.address = "127.0.0.1:" + file.read().strip()

    def stop(self):
        self.process.terminate()
        self.process.wait(DEADLINE_S)
        shutil.rmtree(self.folder)


def wait_until(condition):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited too long")
        time.sleep(0.02)


def environment(**more):
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES")}
    return {**clean, "ESPALIER_SERVER": server.address, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", **more}


def run(*arguments, env=None, text=None):
    return subprocess.run(
        [CLIENT, *arguments],
        env=environment(**(env or {})),
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
        check=False,
    )


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


class Terminal:
    """The client in a pseudo terminal of its own."""

    def __init__(self, columns, rows, *arguments, env=None):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(CLIENT, [CLIENT, *arguments], environment(**(env or {})))
        self.output = b""
        self.resize(columns, rows)

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds=0.1):
        """Reads what comes in that time. False: the program has ended."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return True
        try:
            chunk = os.read(self.master, 65536)
        except OSError:
            return False
        self.output += chunk
        return bool(chunk)

    def read_until(self, words):
        end = time.monotonic() + DEADLINE_S
        while words not in self.output:
            if time.monotonic() > end or not self.read():
                raise AssertionError(f"no {words!r} in {self.output[-2000:]!r}")

    def finish(self):
        end = time.monotonic() + DEADLINE_S
        while self.read():
            if time.monotonic() > end:
                raise AssertionError(f"does not end: {self.output[-2000:]!r}")
        _, status = os.waitpid(self.pid, 0)
        os.close(self.master)
        return os.waitstatus_to_exitcode(status)

    def printed(self):
        """What stays on the terminal: without the alternate screen and without escape codes."""
        kept = re.sub(rb"\x1b\[\?1049h.*?\x1b\[\?1049l", b"", self.output, flags=re.S)
        return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", kept).decode("utf-8")


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
        self.assertEqual([len(event["kept"]) for event in selections(events)], [5, 5, 1])
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
        done = run("generate", "--tree", tree, "--best", "--set", "problem.text=numbers 5 8 12 12 target 24\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stdout.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertTrue(lines[2].endswith(" left 24 ok"), lines)

    def test_a_tree_is_read_from_standard_input(self):
        with open(os.path.join(TREES, "greedy.json"), encoding="utf-8") as file:
            done = run("generate", "--tree", "-", "--json", text=file.read())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout.splitlines()[-1])["branches"], grow("greedy.json")[-1]["branches"])


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
        self.assertIn("error: ESPALIER_SERVER: must be HOST:PORT", run("health", env={"ESPALIER_SERVER": "x"}).stderr)
        self.assertNotIn("HOST:PORT with", run("health", env={"ESPALIER_SERVER": ""}).stderr)

    def test_an_address_is_no_url(self):
        self.refused(2, "error: --server: must be HOST:PORT", "--server", "http://" + server.address, "health")

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


class Servers(unittest.TestCase):
    def test_an_address_that_cannot_be_had_is_refused_with_the_reason(self):
        for address, why in (
            (server.address, "Address already in use"),
            ("192.0.2.1:50051", "Cannot assign requested address"),
        ):
            with self.subTest(address=address):
                command = [SERVER, "--model", os.path.join(SOURCE, "model", "demo"), "--listen", address]
                done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=DEADLINE_S, check=False)
                self.assertEqual(done.returncode, 2)
                self.assertEqual(done.stderr, f"error: --listen: cannot listen at {address}: {why}\n")


class Commands(unittest.TestCase):
    def test_health(self):
        self.assertEqual((run("health").returncode, run("health").stdout), (0, "serving\n"))

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

    def test_the_seed_that_the_server_drew_is_told_and_grows_the_tree_again(self):
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
    def idle(self):
        stats = json.loads(run("stats", "--json").stdout)
        return stats["requests_active"] == 0 and stats["blocks_live"] == 0

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
                wait_until(self.idle)
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


class Terminals(unittest.TestCase):
    def test_trees_fit_narrow_and_wide_terminals(self):
        for columns in (40, 80, 200):
            terminal = Terminal(columns, 24, "generate", "--tree", os.path.join(TREES, "tree_of_thoughts.json"))
            self.assertEqual(terminal.finish(), 0)
            lines = terminal.printed().splitlines()
            self.assertGreater(len(lines), 20)
            self.assertLessEqual(max(map(len, lines)), columns)
            self.assertIn("★", terminal.printed())
            self.assertIn(b"\x1b[1m", terminal.output)

    def test_no_color_is_heeded_on_a_terminal(self):
        terminal = Terminal(80, 24, "generate", "--tree", os.path.join(TREES, "greedy.json"), env={"NO_COLOR": "1"})
        self.assertEqual(terminal.finish(), 0)
        self.assertNotRegex(terminal.output, rb"\x1b\[[0-9;]*m")

    def test_interrupting_a_watched_tree_gives_the_terminal_back_and_cancels_on_the_server(self):
        terminal = Terminal(60, 10, *LONG)
        terminal.read_until(b"branches growing")
        terminal.resize(40, 8)
        terminal.output = terminal.output[-1:]
        terminal.read_until(b"\x1b[2J")  # drawn anew at the new size
        os.write(terminal.master, b"\x03")
        self.assertEqual(terminal.finish(), 130)
        for sequence in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?7h"):
            self.assertIn(sequence, terminal.output)
        self.assertIn("interrupted: the request was cancelled on the server", terminal.output.decode("utf-8"))

        def idle():
            stats = json.loads(run("stats", "--json").stdout)
            return stats["requests_active"] == 0 and stats["blocks_live"] == 0

        wait_until(idle)

    def test_a_killed_client_leaves_nothing_on_the_server(self):
        killed = subprocess.Popen([CLIENT, *LONG], env=environment(), stdout=subprocess.DEVNULL)
        wait_until(lambda: json.loads(run("stats", "--json").stdout)["requests_active"] > 0)
        killed.kill()
        killed.wait(DEADLINE_S)
        wait_until(lambda: json.loads(run("stats", "--json").stdout)["blocks_live"] == 0)

    def test_statistics_are_drawn_until_interrupted(self):
        terminal = Terminal(70, 20, "stats", "--watch", "0.2")
        terminal.read_until(b"since start")
        os.write(terminal.master, b"\x03")
        self.assertEqual(terminal.finish(), 0)
        self.assertTrue(terminal.output.endswith(b"\x1b[?1049l"), terminal.output[-40:])


class Completion(unittest.TestCase):
    WORDS = (
        ("espalier ge", "generate"),
        ("espalier generate --bra", "--branches"),
        ("espalier generate --color al", "always"),
        ("espalier generate --tree {trees}/bea", "{trees}/beam.json"),
        ("espalier completion z", "zsh"),
        ("espalier --json stats --wat", "--watch"),
        ("espalier-server --max-bat", "--max-batch-rows"),
        ("espalier-server --threads 2 --attention-mode node_", "node_chunk"),
        ("espalier-server --check-invariants t", "true"),
        ("espalier-server --config {trees}/bea", "{trees}/beam.json"),
        ("espalier-server --completion f", "fish"),
    )

    def script(self, program, shell):
        command = [CLIENT, "completion", shell] if program == "espalier" else [SERVER, "--completion", shell]
        made = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        script = os.path.join(server.folder, f"{program}.{shell}")
        with open(script, "w", encoding="utf-8") as file:
            file.write(made.stdout)
        return script

    def check(self, shell, complete):
        if shutil.which(shell) is None:
            self.skipTest(f"{shell} is not installed")
        for line, expected in self.WORDS:
            line, expected = (text.format(trees=TREES) for text in (line, expected))
            with self.subTest(line=line):
                self.assertIn(expected, complete(self.script(line.split()[0], shell), line))

    def test_bash(self):
        def complete(script, line):
            words = " ".join(f"'{word}'" for word in line.split(" "))
            code = f"""source '{script}'; compopt() {{ :; }}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
                "_${{COMP_WORDS[0]}}"; printf '%s\\n' "${{COMPREPLY[@]}}" """
            return subprocess.run(
                ["bash", "--norc", "-c", code], capture_output=True, encoding="utf-8", check=True
            ).stdout.split()

        self.check("bash", complete)

    def test_fish(self):
        def complete(script, line):
            code = f"source '{script}'; complete -C'{line}'"
            env = {**environment(), "HOME": server.folder}
            done = subprocess.run(["fish", "-c", code], capture_output=True, encoding="utf-8", env=env, check=True)
            return [candidate.split("\t")[0] for candidate in done.stdout.splitlines()]

        self.check("fish", complete)

    def test_zsh(self):
        def complete(script, line):
            pid, master = pty.fork()
            if pid == 0:
                os.execvpe("zsh", ["zsh", "-f"], {**environment(), "PS1": "ready> "})
            output = b""

            def type_and_wait(keys, words):
                nonlocal output
                os.write(master, keys)
                end = time.monotonic() + DEADLINE_S
                while not re.search(words, output) and time.monotonic() < end:
                    if select.select([master], [], [], 0.1)[0]:
                        output += os.read(master, 65536)

            type_and_wait(
                b"autoload -U compinit; compinit -D -u; source '%s'; print do''ne\n" % script.encode(), b"\ndone"
            )
            type_and_wait(line.encode() + b"\t\x01print -r -- '<' \x05'>'\n", rb"\n< [^\n]*>")
            os.close(master)
            os.waitpid(pid, 0)
            return re.search(rb"\n< ([^\n]*)>", output).group(1).decode().split()

        self.check("zsh", complete)


def main():
    global server
    server = Server()
    try:
        program = unittest.main(argv=[sys.argv[0], *sys.argv[3:]], exit=False)
    finally:
        server.stop()
    sys.exit(0 if program.result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
