#!/usr/bin/env python3
"""The client in pseudo terminals, and completion in shells.

cli_terminal_test.py BIN_FOLDER SOURCE_FOLDER [unittest arguments]
"""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
import unittest

import cli_harness
from cli_harness import CLIENT, DEADLINE_S, LONG, SERVER, TREES, environment, idle, run, wait_until


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


class Terminals(unittest.TestCase):
    def test_trees_fit_narrow_and_wide_terminals(self):
        for columns in (40, 80, 200):
            terminal = Terminal(columns, 24, "generate", "--tree", os.path.join(TREES, "tree_of_thoughts.json"))
            self.assertEqual(terminal.finish(), 0)
            lines = terminal.printed().splitlines()
            self.assertGreater(len(lines), 15)
            self.assertLessEqual(max(map(len, lines)), columns)
            self.assertIn("★", terminal.printed())
            self.assertIn(b"\x1b[1m", terminal.output)

    def test_no_color_is_heeded_on_a_terminal(self):
        terminal = Terminal(80, 24, "generate", "--tree", os.path.join(TREES, "greedy.json"), env={"NO_COLOR": "1"})
        self.assertEqual(terminal.finish(), 0)
        self.assertNotRegex(terminal.output, rb"\x1b\[[0-9;]*m")

    def test_texts_do_not_steer_a_terminal_and_stay_as_they_are_in_a_pipe(self):
        text = "a\x1b]0;pwned\x07\n\tb"
        ids = ",".join(map(str, json.loads(run("tokenize", "--text", text, "--json").stdout)["token_ids"]))
        self.assertEqual(run("detokenize", "--ids", ids).stdout, text + "\n")
        terminal = Terminal(80, 24, "detokenize", "--ids", ids)
        self.assertEqual(terminal.finish(), 0)
        self.assertIn("a�]0;pwned�\r\n\tb".encode(), terminal.output.replace(b"        ", b"\t"))
        self.assertNotIn(b"\x1b", terminal.output)

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
        ("espalier-server --threads 2 --attention-mode se", "sequence"),
        ("espalier-server --check-invariants t", "true"),
        ("espalier-server --config {trees}/bea", "{trees}/beam.json"),
        ("espalier-server --completion f", "fish"),
    )

    def script(self, program, shell):
        command = [CLIENT, "completion", shell] if program == "espalier" else [SERVER, "--completion", shell]
        made = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        script = os.path.join(cli_harness.server.folder, f"{program}.{shell}")
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
            env = {**environment(), "HOME": cli_harness.server.folder}
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


if __name__ == "__main__":
    cli_harness.main()
