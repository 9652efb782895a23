"""What the tests of the client share: a live server, and the client run against it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
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
        command += ["--admin-listen", "127.0.0.1:0", "--port-file", port_file, "--log-level", "error"]
        command += ["--kv-cache-bytes", "67108864", "--threads", "1"]
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
    unset = ("NO_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES", "ESPALIER_ADMIN")
    clean = {k: v for k, v in os.environ.items() if k not in unset}
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


def idle():
    """Nothing runs on the server, and nothing is left there."""
    stats = json.loads(run("stats", "--json").stdout)
    return stats["requests_active"] == 0 and stats["blocks_live"] == 0


def main():
    global server
    server = Server()
    try:
        program = unittest.main(argv=[sys.argv[0], *sys.argv[3:]], exit=False)
    finally:
        server.stop()
    sys.exit(0 if program.result.wasSuccessful() else 1)
