"""Line charts as SVG files, with the standard library only. The same input gives the same bytes.

line_chart("out.svg", [Series("greedy", [(30, 47.0, 42.7, 51.4)]), Series("tree", [(200, 80), (900, 86)])],
           title="Countdown", x_label="tokens", y_label="right, %", log_x=True)
"""

import math
from collections import namedtuple
from dataclasses import dataclass
from typing import Optional
from xml.sax.saxutils import escape

# Distinct for people with any colour vision (Okabe and Ito), and by the markers in print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
MARKERS = ("circle", "square", "diamond", "triangle", "cross")
INK, FAINT, GRID = "#24292f", "#57606a", "#e3e6ea"
FONT_SIZE = 13
MARKER_SIZE = 4.2

Area = namedtuple("Area", "left top right bottom")


@dataclass
class Series:
    """A named line. `points`: (x, y) or (x, y, low, high), drawn in this order; low and high make an error bar.

    `colour`: an SVG colour; None: the next of COLOURS. `line=False` draws the markers alone, `markers=False` the line.
    """

    name: str
    points: list
    dashed: bool = False
    line: bool = True
    colour: Optional[str] = None
    markers: bool = True


def line_chart(
    path,
    series,
    *,
    title,
    x_label,
    y_label,
    log_x=False,
    log_y=False,
    x_range=None,
    y_range=None,
    y_mark=None,
    x_ticks=None,
    width=820,
    height=440,
):
    """Writes the chart of at least one Series to the file `path`.

    The legend stands to the right, in the order of `series`. `x_range`, `y_range`: (low, high) of an axis; None: what
    the points and their error bars need, and for a y axis that is not logarithmic zero as well; marks outside are cut
    off. `y_mark`: a value that everything is compared with, drawn across the chart and always in its range. `x_ticks`:
    where the x axis has its ticks; None: round values. Sizes are pixels at scale 1. Raises ValueError where there is
    nothing to draw, a value is not finite, a range is empty, or a logarithm gets a value that is not positive.
    """
    heights = [y for s in series for _, *ys in s.points for y in ys]
    if heights:
        heights += ([] if y_mark is None else [y_mark]) + ([] if log_y else [0])
    x_axis = _Axis("x", [x for s in series for x, *_ in s.points], log_x, x_range)
    y_axis = _Axis("y", heights, log_y, y_range)
    legend = max(_text_width(s.name) for s in series) + 44
    area = Area(64, 50, width - legend - 24, height - 58)
    if area.right - area.left < 100 or area.bottom - area.top < 60:
        raise ValueError(f"a chart of {width} x {height} has no room for its lines next to the legend")
    x_axis.place(area.left, area.right, 80)
    y_axis.place(area.bottom, area.top, 45)
    if x_ticks:
        x_axis.ticks = [tick for tick in x_ticks if x_axis.low <= tick <= x_axis.high]
    parts = _frame(area, x_axis, y_axis, title, x_label, y_label, width, height)
    if y_mark is not None:
        y = y_axis.at(y_mark)
        parts.append(_stroke(area.left, y, area.right, y, FAINT, ' stroke-width="1.4" stroke-dasharray="2 3"'))
        parts.append(_text(area.right - 4, y - 5, f"{_number(y_mark)}x", "end", FAINT))
    for index, one in enumerate(series):
        colour = one.colour or COLOURS[index % len(COLOURS)]
        marker = MARKERS[index % len(MARKERS)]
        parts += _line(one, colour, marker, x_axis, y_axis)
        parts += _legend_entry(one, colour, marker, area.right + 18, area.top + 12 + 22 * index)
    text = "\n".join(parts + ["</svg>", ""])
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


class _Axis:
    """Maps values to pixels and chooses round ticks."""

    def __init__(self, name, values, log, limits):
        if not values:
            raise ValueError(f"{name}: no points to draw")
        for value in [*values, *(limits or ())]:
            if not math.isfinite(value) or (log and value <= 0):
                raise ValueError(f"{name}: {value} cannot be drawn on {'a logarithmic' if log else 'an'} axis")
        self.log, self.fixed = log, limits is not None
        low, high = limits or (min(values), max(values))
        if self.fixed and not low < high:
            raise ValueError(f"{name}: the range {limits} is empty")
        if low == high:  # one value: some room on both sides of it
            low, high = (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
        self.low, self.high = low, high

    def place(self, begin, end, pixels_a_tick):
        self.begin, self.end = begin, end
        count = max(2, int(abs(end - begin) / pixels_a_tick))
        if self.log:
            self.ticks = _log_ticks(self.low, self.high, count)
            if not self.fixed:  # a little air, as ticks seldom stand at the ends
                air = (self.high / self.low) ** 0.04
                self.low, self.high = self.low / air, self.high * air
        else:
            step = _round_step((self.high - self.low) / count)
            if not self.fixed:
                self.low = math.floor(self.low / step + 1e-9) * step
                self.high = math.ceil(self.high / step - 1e-9) * step
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            self.ticks = [round(i * step, 12) for i in range(first, last + 1)]

    def at(self, value):
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)


def _round_step(step):
    """The least of 1, 2, 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _log_ticks(low, high, count):
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**e for e in range(first, last + 1) for f in factors]
        ticks = [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        if len(ticks) <= count + 1:
            break
    if len(ticks) > count + 1:  # more decades than room
        ticks = ticks[:: math.ceil(len(ticks) / count)]
    return ticks if len(ticks) >= 2 else sorted({low, high})


def _number(value):
    """A tick's text: 0.05, 250, 2000, 20k, 4M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(unit, 1e4):
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"


def _text_width(text):
    return 0.6 * FONT_SIZE * len(text)


def _text(x, y, text, anchor="start", colour=INK, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{extra}>{escape(text)}</text>'


def _stroke(x1, y1, x2, y2, colour, extra=""):
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" fill="none"{extra}/>'


def _frame(area, x_axis, y_axis, title, x_label, y_label, width, height):
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="{FONT_SIZE}">',
        f"<title>{escape(title)}</title>",
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6" fill="#ffffff" stroke="#d0d7de"/>',
        f'<clipPath id="area"><rect x="{area.left}" y="{area.top - 6}" width="{area.right - area.left + 6:.1f}" '
        f'height="{area.bottom - area.top + 12}"/></clipPath>',
        _text(area.left, 30, title, extra=' font-size="15" font-weight="bold"'),
    ]
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        parts.append(_stroke(area.left, y, area.right, y, GRID))
        parts.append(_text(area.left - 8, y + 4.5, _number(tick), "end", FAINT))
    for tick in x_axis.ticks:
        x = x_axis.at(tick)
        parts.append(_stroke(x, area.top, x, area.bottom, GRID))
        parts.append(_text(x, area.bottom + 19, _number(tick), "middle", FAINT))
    parts.append(_stroke(area.left, area.bottom, area.right, area.bottom, FAINT))
    parts.append(_stroke(area.left, area.top, area.left, area.bottom, FAINT))
    parts.append(_text((area.left + area.right) / 2, area.bottom + 43, x_label, "middle"))
    middle = (area.top + area.bottom) / 2
    parts.append(_text(18, middle, y_label, "middle", extra=f' transform="rotate(-90 18 {middle:.1f})"'))
    return parts


def _line(one, colour, marker, x_axis, y_axis):
    parts = ['<g clip-path="url(#area)">']
    places = [(x_axis.at(x), y_axis.at(y), [y_axis.at(bound) for bound in bounds]) for x, y, *bounds in one.points]
    for x, _, bounds in places:
        if bounds:
            low, high = bounds
            parts.append(_stroke(x, low, x, high, colour, ' stroke-width="1.2" opacity="0.55"'))
            for y in bounds:
                parts.append(_stroke(x - 3, y, x + 3, y, colour, ' stroke-width="1.2" opacity="0.55"'))
    if one.line and len(places) > 1:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    if one.markers:
        parts += [_marker(marker, x, y, colour) for x, y, _ in places]
    return parts + ["</g>"]


def _marker(kind, x, y, colour):
    s = MARKER_SIZE
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s}" fill="{colour}"/>'
    corners = {
        "square": ((-s, -s), (s, -s), (s, s), (-s, s)),
        "diamond": ((0, -1.3 * s), (1.3 * s, 0), (0, 1.3 * s), (-1.3 * s, 0)),
        "triangle": ((0, -1.2 * s), (1.2 * s, s), (-1.2 * s, s)),
    }.get(kind)
    if corners:
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
        return f'<polygon points="{points}" fill="{colour}"/>'
    return _stroke(x - s, y - s, x + s, y + s, colour, ' stroke-width="2"') + _stroke(
        x - s, y + s, x + s, y - s, colour, ' stroke-width="2"'
    )


def _legend_entry(one, colour, marker, x, y):
    parts = []
    if one.line:
        extra = ' stroke-width="2"' + (' stroke-dasharray="5 4"' if one.dashed else "")
        parts.append(_stroke(x, y, x + 26, y, colour, extra))
    if one.markers:
        parts.append(_marker(marker, x + 13, y, colour))
    return parts + [_text(x + 34, y + 4.5, one.name)]
