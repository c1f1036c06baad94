"""Charts as SVG: lines, bands, bars and points over two axes, and heat maps.

Every chart has a white ground, so it can be read on a dark page too. Dashes and markers tell lines apart without
colours. All text goes through an XML builder, so no name becomes markup. Equal input gives equal bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from services import text as words

MOST_POINTS = 500
"""Of a line that are drawn; of more, the lowest and the highest of neighbouring points."""
MARKED = 15
"""About as many points of a line carry a marker."""
WIDTH = 720.0
PLOT_HEIGHT = 250.0
INK, FAINT, GRID = "#222222", "#555555", "#dddddd"
LEFT, RIGHT, TOP, BOTTOM = 66.0, 16.0, 26.0, 46.0
"""The margins of a plot, in pixels, where its labels stand."""
CHARACTER = 6.4
"""About the width of a character in pixels."""
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Value = float | None


class Style(NamedTuple):
    colour: str
    dash: str = ""
    marker: str = ""


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


@dataclass(frozen=True)
class Axis:
    """From values to pixels: `at` one end and `to` the other."""

    low: float
    high: float
    at: float
    to: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return round(self.at + (value - low) / (high - low) * (self.to - self.at), 1)


def figure(title: str, plots: Sequence[Plot], columns: int = 1, height: float = PLOT_HEIGHT) -> bytes:
    """Plots side by side below a title and one legend."""
    entries = list({mark.label: mark for plot in plots for mark in plot.marks}.values())
    legend = list(_flowed(entries))
    top = 36.0 + 18.0 * (legend[-1][1] + 1 if legend else 0)
    if not any(plot.title for plot in plots):
        top -= TOP - 10.0
    rows = -(-len(plots) // columns)
    root = _root(title, WIDTH, top + rows * height + 6)
    for x, row, mark in legend:
        _legend_entry(root, x, 42.0 + 18.0 * row, mark)
    each = WIDTH / columns
    for number, plot in enumerate(plots):
        group = SubElement(root, "g")
        _draw(group, plot, (number % columns) * each, top + (number // columns) * height, each, height)
    return _bytes(root)


def heat_map(title: str, matrix: Sequence[Sequence[int]], names: Sequence[str], x_label: str, y_label: str) -> bytes:
    """Counts (rows, columns) as shades: each cell by its share of its row. Counts are written into up to 12 rows."""
    count = len(names)
    size = float(max(9, min(44, 480 // count)))  # whole numbers, which are short
    font = min(12.0, size * 0.8)
    shown = [shortened(name, 16) for name in names]
    room = 14.0 + font * 0.6 * max(map(len, shown))
    left, top = float(round(room + 26.0)), 64.0
    width = max(left + count * size + 40.0 + room * 0.5, 400.0)
    root = _root(title, width, top + count * size + room + 44.0)
    _scale(root, left, 42.0)
    for level, path in sorted(_shades(matrix, left, top, size).items()):
        SubElement(root, "path", {"d": path, "fill": _grey(level)})
    edge = {"x": _n(left), "y": _n(top), "width": _n(count * size), "height": _n(count * size)}
    SubElement(root, "rect", {**edge, "fill": "none", "stroke": FAINT})
    is_level = CHARACTER * max(map(len, shown)) < size
    for place, name in enumerate(shown):
        middle = (place + 0.5) * size
        _text(root, left - 6, top + middle + font * 0.35, name, size=font, anchor="end")
        below = top + count * size
        if is_level:
            _text(root, left + middle, below + font + 4, name, size=font, anchor="middle")
        else:
            _text(root, left + middle + font * 0.35, below + 8, name, size=font, anchor="end", turn=-90)
    if count <= MOST_WRITTEN:
        _write_counts(root, matrix, left, top, size)
    _text(root, left + count * size / 2, top + count * size + room + 26, x_label, anchor="middle", colour=FAINT)
    _text(root, 14, top + count * size / 2, y_label, anchor="middle", colour=FAINT, turn=-90)
    return _bytes(root)


# ---- a plot


def _draw(parent: Element, plot: Plot, x: float, y: float, width: float, height: float) -> None:
    x_low, x_high = _span([*_values(plot.marks, "x")])
    y_values = [*_values(plot.marks, "y")]
    y_low, y_high = _log_span(y_values) if plot.log else _span(y_values, margin=0.05)
    if plot.square:
        low, high = plot.span or (min(x_low, y_low), max(x_high, y_high))
        x_low, x_high, y_low, y_high = low, high, low, high
    x_axis = Axis(x_low, x_high, x + LEFT, x + width - RIGHT)
    y_axis = Axis(y_low, y_high, y + height - BOTTOM, y + TOP, plot.log)
    for value, label in _log_ticks(y_low, y_high) if plot.log else _ticks(y_low, y_high):
        at = y_axis.place(value)
        _stroke(parent, f"M{_n(x_axis.at)} {_n(at)}H{_n(x_axis.to)}", Style(GRID))
        _text(parent, x_axis.at - 6, at + 4, label, anchor="end")
    for value, label in _ticks(x_low, x_high, whole=plot.whole_x):
        at = x_axis.place(value)
        _stroke(parent, f"M{_n(at)} {_n(y_axis.at)}v4", Style(INK))
        _text(parent, at, y_axis.at + 17, label, anchor="middle")
    for mark in plot.marks:
        DRAWN[type(mark)](parent, mark, x_axis, y_axis)
    _stroke(parent, f"M{_n(x_axis.at)} {_n(y_axis.to)}V{_n(y_axis.at)}H{_n(x_axis.to)}", Style(INK))
    middle = (x_axis.at + x_axis.to) / 2
    _text(parent, middle, y + TOP - 10, plot.title, anchor="middle", weight="bold")
    _text(parent, middle, y_axis.at + 36, plot.x_label, anchor="middle", colour=FAINT)
    most = int((y_axis.at - y_axis.to) / CHARACTER)
    up = shortened(plot.y_label, most)
    _text(parent, x + 14, (y_axis.at + y_axis.to) / 2, up, anchor="middle", colour=FAINT, turn=-90)


def _line(parent: Element, mark: Line, x: Axis, y: Axis) -> None:
    points = [(x.place(a), None if b is None or not math.isfinite(b) else y.place(b)) for a, b in thinned(mark)]
    path, is_begun = [], False
    for a, b in points:
        if b is not None:
            path.append(f"{'L' if is_begun else 'M'}{_n(a)} {_n(b)}")
        is_begun = b is not None
    _stroke(parent, "".join(path), mark.style, width=1.8)
    there = [(a, b) for a, b in points if b is not None]
    _markers(parent, there[:: max(1, len(there) // MARKED)], mark.style)


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
    _markers(parent, [(x.place(a), y.place(b)) for a, b in zip(mark.x, mark.y, strict=True)], mark.style, hollow=True)


def _band(parent: Element, mark: Band, x: Axis, y: Axis) -> None:
    there = [
        *zip(mark.x, mark.low, strict=True),
        *reversed(list(zip(mark.x, mark.high, strict=True))),
    ]
    path = "L".join(f"{_n(x.place(a))} {_n(y.place(b))}" for a, b in there)
    SubElement(parent, "path", {"d": f"M{path}Z", "fill": "#c2571a", "fill-opacity": "0.2"})


def _bars(parent: Element, mark: Bars, x: Axis, y: Axis) -> None:
    floor, half = _n(y.place(y.low)), mark.width / 2
    path = "".join(
        f"M{_n(x.place(a - half))} {floor}V{_n(y.place(b))}H{_n(x.place(a + half))}V{floor}Z"
        for a, b in zip(mark.x, mark.y, strict=True)
        if b > 0
    )
    SubElement(parent, "path", {"d": path, "fill": "#cfcfcf", "stroke": "#ffffff"})


def _across(parent: Element, mark: Across, x: Axis, y: Axis) -> None:
    _stroke(parent, f"M{_n(x.at)} {_n(y.place(mark.y))}H{_n(x.to)}", mark.style, width=1.5)


def _upright(parent: Element, mark: Upright, x: Axis, y: Axis) -> None:
    _stroke(parent, f"M{_n(x.place(mark.x))} {_n(y.at)}V{_n(y.to)}", mark.style, width=1.5)


def _diagonal(parent: Element, mark: Diagonal, x: Axis, y: Axis) -> None:
    low, high = max(x.low, y.low), min(x.high, y.high)
    path = f"M{_n(x.place(low))} {_n(y.place(low))}L{_n(x.place(high))} {_n(y.place(high))}"
    _stroke(parent, path, mark.style, width=1.5)


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


def _span(values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    pad = margin * (high - low)
    return (0.0 if 0.0 <= low < 0.3 * high and margin else low - pad), high + pad


def _log_span(values: Sequence[float]) -> tuple[float, float]:
    there = [value for value in values if value > 0]
    low, high = min(there, default=1.0), max(there, default=10.0)
    return low / 1.2, high * 1.2


def _ticks(low: float, high: float, *, whole: bool = False) -> Iterator[tuple[float, str]]:
    """About five round numbers between two others, and how each is written."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1.0, 2.0, 5.0, 10.0) if each * power >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    for number in range(first, math.floor(high / step + 1e-9) + 1):
        yield number * step, f"{number * step:.6g}".replace("e+0", "e").replace("e-0", "e-")


def _log_ticks(low: float, high: float) -> Iterator[tuple[float, str]]:
    digits = (1.0, 2.0, 5.0) if high / low < 500 else (1.0,)
    skip = max(1, round(math.log10(high / low) / 6))
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, skip):
        for digit in digits:
            value = digit * 10.0**power
            if low <= value <= high:
                yield value, f"{value:g}".replace("e+0", "e").replace("e-0", "e-")


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
        SubElement(parent, "rect", {"x": _n(x), "y": _n(y - 5), "width": "26", "height": "10", **fill})
    else:
        is_points = isinstance(mark, Points)
        if not is_points:
            _stroke(parent, f"M{_n(x)} {_n(y)}h26", mark.style, width=1.8)
        _markers(parent, [(x + 13, y)], mark.style, hollow=is_points)
    _text(parent, x + 32, y + 4, shortened(mark.label, 60))


# ---- a heat map

MOST_WRITTEN = 12
LEVELS = 10


def _shades(matrix: Sequence[Sequence[int]], left: float, top: float, size: float) -> dict[int, str]:
    """Of each shade, from 1 to LEVELS, the path of all its cells."""
    found: dict[int, list[str]] = {}
    for row, counts in enumerate(matrix):
        total = sum(counts)
        for column, count in enumerate(counts):
            if count:
                cell = f"M{_n(left + column * size)} {_n(top + row * size)}h{_n(size)}v{_n(size)}h-{_n(size)}z"
                found.setdefault(math.ceil(LEVELS * count / total), []).append(cell)
    return {level: "".join(cells) for level, cells in found.items()}


def _grey(level: int) -> str:
    """From light to dark blue, which gets darker in grey too."""
    share = level / LEVELS
    red, green, blue = (round(235 + (dark - 235) * share) for dark in (8, 48, 107))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _write_counts(root: Element, matrix: Sequence[Sequence[int]], left: float, top: float, size: float) -> None:
    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            is_dark = count > 0.5 * sum(counts)
            said = f"{count:,}" if count < 10_000 else f"{count:.1e}".replace("e+0", "e")
            font = min(12.0, size / (0.62 * len(said) + 0.6))
            x, y = left + (column + 0.5) * size, top + (row + 0.5) * size + font * 0.35
            _text(root, x, y, said, size=font, anchor="middle", colour="#ffffff" if is_dark else INK)


def _scale(root: Element, left: float, y: float) -> None:
    _text(root, left, y + 4, "share of the row: 0%")
    x = left + 19 * CHARACTER + 6
    for level in range(1, LEVELS + 1):
        place = {"x": _n(x + 8 * level), "y": _n(y - 6), "width": "8", "height": "12"}
        SubElement(root, "rect", {**place, "fill": _grey(level)})
    _text(root, x + 8 * (LEVELS + 1) + 6, y + 4, "100%")


# ---- SVG


def _root(title: str, width: float, height: float) -> Element:
    shown = _xml(title)
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": _n(width),
            "height": _n(height),
            "viewBox": f"0 0 {_n(width)} {_n(height)}",
            "role": "img",
            "font-family": "Helvetica, Arial, sans-serif",
            "font-size": "12",
        },
    )
    SubElement(root, "title").text = shown
    SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    _text(root, 14, 22, shown, size=15, weight="bold")
    return root


def _bytes(root: Element) -> bytes:
    document: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _text(
    parent: Element,
    x: float,
    y: float,
    said: str,
    *,
    size: float = 12,
    anchor: str = "start",
    colour: str = INK,
    weight: str = "",
    turn: int = 0,
) -> None:
    if not said:
        return
    place = {"x": _n(x), "y": _n(y), "fill": colour}
    more = {
        **({"font-size": _n(size)} if size != 12 else {}),
        **({"text-anchor": anchor} if anchor != "start" else {}),
        **({"font-weight": weight} if weight else {}),
        **({"transform": f"rotate({turn} {_n(x)} {_n(y)})"} if turn else {}),
    }
    SubElement(parent, "text", {**place, **more}).text = _xml(said)


def _stroke(parent: Element, path: str, style: Style, width: float = 1.0) -> None:
    dash = {"stroke-dasharray": style.dash} if style.dash else {}
    shape = {"d": path, "fill": "none", "stroke": style.colour, "stroke-width": _n(width)}
    SubElement(parent, "path", {**shape, **dash})


def _markers(parent: Element, places: Sequence[tuple[float, float]], style: Style, *, hollow: bool = False) -> None:
    if not style.marker or not places:
        return
    shape = {
        "circle": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
        "square": "m-3-3h6v6h-6z",
        "triangle": "m0-4l4 7h-8z",
    }[style.marker]
    path = "".join(f"M{_n(x)} {_n(y)}{shape}" for x, y in places)
    fill = {"fill": "none", "stroke": style.colour, "stroke-opacity": "0.6"} if hollow else {"fill": style.colour}
    SubElement(parent, "path", {"d": path, **fill})


def _n(value: float) -> str:
    """A number with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def shortened(said: str, most: int) -> str:
    said = words.visible(" ".join(said.split()))
    return said if len(said) <= most else f"{said[: most - 1]}…"


def _xml(said: str) -> str:
    """The text without characters that XML cannot hold; hidden ones as escapes."""
    return _NOT_XML.sub("�", words.visible(said))
