"""Charts as SVG: lines, bands, bars and points over two axes.

Every chart has a white ground, so it can be read on a dark page too. Dashes and markers tell lines apart without
colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from services.training.card.axes import Axis, log_span, log_ticks, span, ticks
from services.training.card.svg import (
    CHARACTER,
    FAINT,
    INK,
    Style,
    begun,
    finished,
    markers,
    pixels,
    shortened,
    stroke,
    write,
)

MOST_POINTS = 500
"""Of a line that are drawn; of more, the lowest and the highest of neighbouring points."""
MARKED = 15
"""About as many points of a line carry a marker."""
WIDTH = 720.0
PLOT_HEIGHT = 250.0
GRID = "#dddddd"
LEFT, RIGHT, TOP, BOTTOM = 66.0, 16.0, 26.0, 46.0
"""The margins of a plot, in pixels, where its labels stand."""

Value = float | None


FIRST = Style("#0b4f8a", "", "circle")
SECOND = Style("#c2571a", "7 4", "square")
QUIET = Style("#555555", "3 3")
RULE = Style("#8a0b3c", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """Points that are joined; None is a gap."""

    label: str
    x: Sequence[float]
    y: Sequence[Value]
    style: Style = FIRST


@dataclass(frozen=True)
class Points:
    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: Style = FIRST


@dataclass(frozen=True)
class Band:
    """The area between two lines."""

    label: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Bars:
    """Bars from 0 up, around each x."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    width: float


@dataclass(frozen=True)
class Across:
    """A level line."""

    label: str
    y: float
    style: Style = RULE


@dataclass(frozen=True)
class Upright:
    label: str
    x: float
    style: Style = QUIET


@dataclass(frozen=True)
class Diagonal:
    """Where y equals x."""

    label: str
    style: Style = QUIET


Mark = Line | Points | Band | Bars | Across | Upright | Diagonal


@dataclass(frozen=True)
class Plot:
    """Marks over two axes. Axes span the marks; `square` gives both the same span, `log` makes y logarithmic."""

    x_label: str
    y_label: str
    marks: Sequence[Mark]
    title: str = ""
    log: bool = False
    square: bool = False
    whole_x: bool = False
    """Whether x has ticks at whole numbers alone."""
    span: tuple[float, float] | None = None
    """Of both axes of a `square` plot."""


def figure(title: str, plots: Sequence[Plot], columns: int = 1, height: float = PLOT_HEIGHT) -> bytes:
    """Plots side by side below a title and one legend."""
    entries = list({mark.label: mark for plot in plots for mark in plot.marks}.values())
    legend = list(_flowed(entries))
    top = 36.0 + 18.0 * (legend[-1][1] + 1 if legend else 0)
    if not any(plot.title for plot in plots):
        top -= TOP - 10.0
    rows = -(-len(plots) // columns)
    root = begun(title, WIDTH, top + rows * height + 6)
    for x, row, mark in legend:
        _legend_entry(root, x, 42.0 + 18.0 * row, mark)
    each = WIDTH / columns
    for number, plot in enumerate(plots):
        group = SubElement(root, "g")
        _draw(group, plot, (number % columns) * each, top + (number // columns) * height, each, height)
    return finished(root)


# ---- a plot


def _draw(parent: Element, plot: Plot, x: float, y: float, width: float, height: float) -> None:
    x_low, x_high = span([*_values(plot.marks, "x")])
    y_values = [*_values(plot.marks, "y")]
    y_low, y_high = log_span(y_values) if plot.log else span(y_values, margin=0.05)
    if plot.square:
        low, high = plot.span or (min(x_low, y_low), max(x_high, y_high))
        x_low, x_high, y_low, y_high = low, high, low, high
    x_axis = Axis(x_low, x_high, x + LEFT, x + width - RIGHT)
    y_axis = Axis(y_low, y_high, y + height - BOTTOM, y + TOP, plot.log)
    for value, label in log_ticks(y_low, y_high) if plot.log else ticks(y_low, y_high):
        at = y_axis.place(value)
        stroke(parent, f"M{pixels(x_axis.at)} {pixels(at)}H{pixels(x_axis.to)}", Style(GRID))
        write(parent, x_axis.at - 6, at + 4, label, anchor="end")
    for value, label in ticks(x_low, x_high, whole=plot.whole_x):
        at = x_axis.place(value)
        stroke(parent, f"M{pixels(at)} {pixels(y_axis.at)}v4", Style(INK))
        write(parent, at, y_axis.at + 17, label, anchor="middle")
    for mark in plot.marks:
        DRAWN[type(mark)](parent, mark, x_axis, y_axis)
    stroke(parent, f"M{pixels(x_axis.at)} {pixels(y_axis.to)}V{pixels(y_axis.at)}H{pixels(x_axis.to)}", Style(INK))
    middle = (x_axis.at + x_axis.to) / 2
    write(parent, middle, y + TOP - 10, plot.title, anchor="middle", weight="bold")
    write(parent, middle, y_axis.at + 36, plot.x_label, anchor="middle", colour=FAINT)
    most = int((y_axis.at - y_axis.to) / CHARACTER)
    up = shortened(plot.y_label, most)
    write(parent, x + 14, (y_axis.at + y_axis.to) / 2, up, anchor="middle", colour=FAINT, turn=-90)


def _line(parent: Element, mark: Line, x: Axis, y: Axis) -> None:
    points = [(x.place(a), None if b is None or not math.isfinite(b) else y.place(b)) for a, b in thinned(mark)]
    path, is_begun = [], False
    for a, b in points:
        if b is not None:
            path.append(f"{'L' if is_begun else 'M'}{pixels(a)} {pixels(b)}")
        is_begun = b is not None
    stroke(parent, "".join(path), mark.style, width=1.8)
    there = [(a, b) for a, b in points if b is not None]
    markers(parent, there[:: max(1, len(there) // MARKED)], mark.style)


def thinned(line: Line) -> list[tuple[float, Value]]:
    """The points of a line, at most MOST_POINTS: of many, the lowest and the highest of neighbours."""
    points = list(zip(line.x, line.y, strict=True))
    if len(points) <= MOST_POINTS:
        return points
    block = math.ceil(len(points) / (MOST_POINTS // 2))
    found: list[tuple[float, Value]] = []
    for start in range(0, len(points), block):
        some = [each for each in points[start : start + block] if each[1] is not None] or [points[start]]
        ends = {min(some, key=_height), max(some, key=_height)}
        found += sorted(ends, key=lambda each: each[0])
    return found


def _height(point: tuple[float, Value]) -> float:
    return point[1] or 0.0


def _points(parent: Element, mark: Points, x: Axis, y: Axis) -> None:
    markers(parent, [(x.place(a), y.place(b)) for a, b in zip(mark.x, mark.y, strict=True)], mark.style, hollow=True)


def _band(parent: Element, mark: Band, x: Axis, y: Axis) -> None:
    there = [
        *zip(mark.x, mark.low, strict=True),
        *reversed(list(zip(mark.x, mark.high, strict=True))),
    ]
    path = "L".join(f"{pixels(x.place(a))} {pixels(y.place(b))}" for a, b in there)
    SubElement(parent, "path", {"d": f"M{path}Z", "fill": "#c2571a", "fill-opacity": "0.2"})


def _bars(parent: Element, mark: Bars, x: Axis, y: Axis) -> None:
    floor, half = pixels(y.place(y.low)), mark.width / 2
    path = "".join(
        f"M{pixels(x.place(a - half))} {floor}V{pixels(y.place(b))}H{pixels(x.place(a + half))}V{floor}Z"
        for a, b in zip(mark.x, mark.y, strict=True)
        if b > 0
    )
    SubElement(parent, "path", {"d": path, "fill": "#cfcfcf", "stroke": "#ffffff"})


def _across(parent: Element, mark: Across, x: Axis, y: Axis) -> None:
    stroke(parent, f"M{pixels(x.at)} {pixels(y.place(mark.y))}H{pixels(x.to)}", mark.style, width=1.5)


def _upright(parent: Element, mark: Upright, x: Axis, y: Axis) -> None:
    stroke(parent, f"M{pixels(x.place(mark.x))} {pixels(y.at)}V{pixels(y.to)}", mark.style, width=1.5)


def _diagonal(parent: Element, mark: Diagonal, x: Axis, y: Axis) -> None:
    low, high = max(x.low, y.low), min(x.high, y.high)
    path = f"M{pixels(x.place(low))} {pixels(y.place(low))}L{pixels(x.place(high))} {pixels(y.place(high))}"
    stroke(parent, path, mark.style, width=1.5)


DRAWN: Mapping[type, Callable[..., None]] = {
    Line: _line,
    Points: _points,
    Band: _band,
    Bars: _bars,
    Across: _across,
    Upright: _upright,
    Diagonal: _diagonal,
}


def _values(marks: Sequence[Mark], axis: str) -> Iterator[float]:
    """All numbers of marks along an axis, without those that are missing or not finite."""
    names = {"x": ("x",), "y": ("y", "low", "high")}[axis]
    for mark in marks:
        for name in names:
            found = getattr(mark, name, ())
            for value in [found] if isinstance(found, float | int) else found:
                if value is not None and math.isfinite(value):
                    yield float(value)


# ---- a legend


def _flowed(entries: Sequence[Mark]) -> Iterator[tuple[float, int, Mark]]:
    """The place of each entry: x, and the number of its row."""
    x, row = LEFT, 0
    for mark in entries:
        width = 46.0 + CHARACTER * len(shortened(mark.label, 60))
        if x > LEFT and x + width > WIDTH - RIGHT:
            x, row = LEFT, row + 1
        yield x, row, mark
        x += width


def _legend_entry(parent: Element, x: float, y: float, mark: Mark) -> None:
    if isinstance(mark, Band | Bars):
        fill = {"fill": "#c2571a", "fill-opacity": "0.2"} if isinstance(mark, Band) else {"fill": "#cfcfcf"}
        SubElement(parent, "rect", {"x": pixels(x), "y": pixels(y - 5), "width": "26", "height": "10", **fill})
    else:
        is_points = isinstance(mark, Points)
        if not is_points:
            stroke(parent, f"M{pixels(x)} {pixels(y)}h26", mark.style, width=1.8)
        markers(parent, [(x + 13, y)], mark.style, hollow=is_points)
    write(parent, x + 32, y + 4, shortened(mark.label, 60))
