#!/usr/bin/env python3
"""Films a tree that grows in a terminal: server/cli/tree.svg, the picture of README.md.

    python3 -m venv venv && venv/bin/pip install pyte
    venv/bin/python scripts/tree_capture.py --out server/cli/tree.svg

Starts the server of build/release with the demo model, runs `espalier generate --tree` in a pseudo terminal and writes
what it showed as an animated SVG. The demo model is too fast to watch: the server is stopped and continued all the
time, so that it works a small part of the time only. Without animation the SVG shows the last frame.
"""
import argparse
import fcntl
import html
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import pyte

ROOT = Path(__file__).resolve().parent.parent
COLOURS = {"default": "#d7dae0", "red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341", "blue": "#79c0ff",
           "magenta": "#d2a8ff", "cyan": "#76e3ea", "white": "#f0f3f6", "black": "#8b949e"}
CHAR_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 19, 14
WORK_S, PAUSE_S = 0.0004, 0.2  # of the server, interleaved
GROWTH_S, LAST_FRAME_S = 5.0, 5.0  # of the film
LEAVE_SCREEN = b"\x1b[?1049l"


class Slowed:
    """Lets a process work a small part of the time."""

    def __init__(self, pid):
        self.pid, self.ended = pid, threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.ended.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            time.sleep(PAUSE_S)
            os.kill(self.pid, signal.SIGCONT)
            time.sleep(WORK_S)

    def end(self):
        self.ended.set()
        self.thread.join()


def film(command, columns, rows):
    """Runs the command; returns [(seconds, lines)] of every different screen. A line is [(text, colour, bold)]."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), LINES=str(rows))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    begin, frames = time.monotonic(), []
    while True:
        if select.select([terminal], [], [], 0.02)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                break
            before, left, after = data.partition(LEAVE_SCREEN)
            stream.feed(before)
            if left:  # pyte has one screen only: what the client shows after it begins on an empty one
                screen.reset()
            stream.feed(after)
        lines = [line_of(screen.buffer[row], columns) for row in range(rows)]
        if not frames or frames[-1][1] != lines:
            frames.append((time.monotonic() - begin, lines))
    os.waitpid(pid, 0)
    return frames


def line_of(row, columns):
    runs = []
    for column in range(columns):
        char = row[column]
        style = (char.fg, char.bold)
        if runs and runs[-1][1:] == style:
            runs[-1] = (runs[-1][0] + char.data, *style)
        else:
            runs.append((char.data, *style))
    while runs and not runs[-1][0].strip():
        runs.pop()
    return tuple(runs)


def drawn_line(row, runs, css_class):
    y = MARGIN + LINE_HEIGHT * (row + 1) - 5
    spans, column = [], 0
    for text, colour, bold in runs:
        x = MARGIN + CHAR_WIDTH * column
        column += len(text)
        fill = COLOURS.get(colour) or "#" + colour
        weight = ' font-weight="bold"' if bold else ""
        spans.append(f'<tspan x="{x:.1f}" fill="{fill}"{weight}>{html.escape(text)}</tspan>')
    return f'<text y="{y}"{css_class}>{"".join(spans)}</text>'


def animated_svg(frames, columns, rows, title):
    """Every line is one element for each time during which it looks the same."""
    begin = frames[0][0]
    times = [(at - begin) * GROWTH_S / (frames[-1][0] - begin) for at, _ in frames]
    total = times[-1] + LAST_FRAME_S
    styles, elements = [], []
    for row in range(rows):
        since = 0
        for i in range(1, len(frames) + 1):
            if i < len(frames) and frames[i][1][row] == frames[since][1][row]:
                continue
            runs = frames[since][1][row]
            if runs:
                is_last = i == len(frames)
                name = f"f{since}-{i}"
                first = 100 * times[since] / total
                end = 100.0 if is_last else 100 * times[i] / total
                still = "visible" if is_last else "hidden"
                frame = (f"@keyframes {name}{{0%{{visibility:{'visible' if since == 0 else 'hidden'}}}"
                         f"{first:.2f}%{{visibility:visible}}{end:.2f}%{{visibility:{still}}}}}"
                         f".{name}{{visibility:{still};animation:{name} {total:.1f}s step-end infinite}}")
                if frame not in styles:
                    styles.append(frame)
                elements.append(drawn_line(row, runs, f' class="{name}"'))
            since = i
    width, height = MARGIN * 2 + CHAR_WIDTH * columns, MARGIN * 2 + LINE_HEIGHT * rows
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" role="img" xml:space="preserve">\n'
            f"<title>{html.escape(title)}</title>\n<style>text{{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',"
            f"monospace}}{''.join(styles)}</style>\n"
            f'<rect width="100%" height="100%" rx="8" fill="#161b22"/>\n' + "\n".join(elements) + "\n</svg>\n")


def cropped(frames):
    """Without the screen before the first line and after the last: the client gives the terminal back at its end."""
    shown = [(at, lines) for at, lines in frames if any(lines)]
    rows = max(1 + max(i for i, line in enumerate(lines) if line) for _, lines in shown)
    return [(at, lines[:rows]) for at, lines in shown], rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tree", type=Path, default=ROOT / "configs/trees/tree_of_thoughts.json")
    parser.add_argument("--bin", type=Path, default=ROOT / "build/release/bin")
    parser.add_argument("--columns", type=int, default=96)
    parser.add_argument("--rows", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        server = subprocess.Popen([options.bin / "espalier-server", "--model", ROOT / "model/demo", "--listen", "127.0.0.1:0",
                                   "--admin-listen", "127.0.0.1:0", "--port-file", port_file, "--log-level", "error"])
        try:
            while not port_file.exists() or not port_file.read_text().strip():
                if server.poll() is not None:
                    sys.exit("the server has ended")
                time.sleep(0.05)
            address = f"127.0.0.1:{port_file.read_text().strip()}"
            slowed = Slowed(server.pid)
            try:
                frames = film([str(options.bin / "espalier"), "generate", "--server", address, "--tree", str(options.tree)],
                              options.columns, options.rows)
            finally:
                slowed.end()
        finally:
            server.terminate()
            server.wait()
    frames, rows = cropped(frames)
    options.out.write_text(animated_svg(frames, options.columns, rows, "espalier generate --tree tree_of_thoughts.json"))
    print(f"{options.out}: {len(frames)} frames in {frames[-1][0] - frames[0][0]:.1f} s, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
