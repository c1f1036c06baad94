"""The curves of a job: as SVG in a notebook or a file, and as bars at a prompt. It needs no library for plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from loopline import text
from loopline.errors import BadRequest
from loopline.types import Epoch

MOST_POINTS = 300
"""Of a curve; of more epochs every second, third ... is drawn."""
COLOURS = {"train": "#2563eb", "validation": "#c2410c"}
OTHER = "#15803d"
"""The colour of a curve that belongs to no split, such as `lr`."""
WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 30, 34
"""Margins of a panel, in pixels."""
BARS = 40
ROUNDING = 1e-9
LARGEST = 1e100
"""Numbers as large as this are no measurements, and are not drawn."""
SMALLEST = 1 / LARGEST
Points = Sequence[tuple[int, float]]


class Panel(NamedTuple):
    """One measure, with a curve for each split that has it; each curve in pieces, one for each fold."""

    name: str
    curves: Mapping[str, Sequence[Points]]

    @property
    def points(self) -> list[tuple[int, float]]:
        return [point for pieces in self.curves.values() for piece in pieces for point in piece]


@dataclass(frozen=True)
class Plot:
    """Curves over epochs. A notebook draws them, a prompt shows them as bars, and `save` writes an SVG file."""

    title: str
    panels: tuple[Panel, ...] = field(repr=False)
    best: int | None = None
    """The best epoch, which a dashed line marks."""

    @property
    def svg(self) -> str:
        wide = WIDTH * max(1, len(self.panels))
        label = escape(f"{self.title}: {'; '.join(map(_label, self.panels)) or 'no epochs yet'}")
        head = (
            f"<svg xmlns='http://www.w3.org/2000/svg' role='img' aria-label='{label}' width='{wide}' height='{HEIGHT}' "
            f"viewBox='0 0 {wide} {HEIGHT}' font-family='sans-serif' font-size='11' fill='#1f2328'>"
        )
        page = f"<rect width='{wide}' height='{HEIGHT}' fill='#ffffff'/>"
        drawn = "".join(_panel(panel, WIDTH * place, self.best) for place, panel in enumerate(self.panels))
        return f"{head}<title>{label}</title>{page}{drawn}</svg>"

    def save(self, path: str | Path) -> Path:
        """Writes the picture to an SVG file, and returns its path."""
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise BadRequest(f"{path.name} is no SVG: give a file that ends in .svg.")
        path.write_text(self.svg, encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        lines = [text.one_line(self.title)]
        names = [name for panel in self.panels for name in panel.curves]
        for panel in self.panels:
            for name, pieces in panel.curves.items():
                values = [value for piece in pieces for _, value in piece]
                bars = text.sparkline(values, BARS)
                lines.append(f"{name:<{max(map(len, names))}}  {bars}  {values[0]:.4g} to {values[-1]:.4g}")
        return "\n".join(lines if names else [*lines, "no epochs yet"])


def of_epochs(title: str, epochs: Sequence[Epoch], names: Sequence[str], best: int | None = None) -> Plot:
    """The curves of some recorded numbers. A name without a split (`loss`, `accuracy`) means those of both splits.

    Raises BadRequest if the epochs have no such number.
    """
    found = [_of_name(name, epochs) for name in names] if epochs else []
    return Plot(title, tuple(panel for panel in found if panel.curves), best)


def _of_name(name: str, epochs: Sequence[Epoch]) -> Panel:
    recorded = {each: None for epoch in epochs for each in _numbers(epoch)}
    wanted = [each for each in (name, *(f"{split}_{name}" for split in COLOURS)) if each in recorded]
    if not wanted:
        raise BadRequest(f"The epochs have no number {name!r}. They have: {', '.join(recorded)}.")
    some = epochs[:: max(1, math.ceil(len(epochs) / MOST_POINTS))]
    curves = {each: [piece for piece in _pieces(each, some) if piece] for each in wanted}
    return Panel(name, {each: pieces for each, pieces in curves.items() if pieces})


def _numbers(epoch: Epoch) -> dict[str, float | None]:
    own = {"train_loss": epoch.train_loss, "validation_loss": epoch.validation_loss}
    given = {name: value for name, value in own.items() if value is not None} | dict(epoch.raw)
    return {
        name: value if value is not None and abs(value) < LARGEST else None
        for name, value in given.items()
        if name not in ("epoch", "fold", "fold_epoch") and isinstance(value, int | float | None)
    }


def _pieces(name: str, epochs: Sequence[Epoch]) -> list[Points]:
    pieces: list[Points] = []
    for _, fold in groupby(epochs, key=lambda epoch: epoch.fold):
        values = ((each.epoch, _numbers(each).get(name)) for each in fold)
        pieces.append([(at, value) for at, value in values if value is not None])
    return pieces


def _label(panel: Panel) -> str:
    """`loss from 1.1 to 0.3333, over epochs 1 to 3`"""
    xs, ys = [x for x, _ in panel.points], [y for _, y in panel.points]
    return f"{panel.name} from {max(ys):.4g} to {min(ys):.4g}, over epochs {min(xs)} to {max(xs)}"


def _panel(panel: Panel, left: int, best: int | None) -> str:
    xs, ys = [x for x, _ in panel.points], [y for _, y in panel.points]
    first, last = min(xs), max(xs)
    marks = ticks(min(ys), max(ys))
    low, high = min(marks[0], min(ys)), max(marks[-1], max(ys))
    right, bottom = left + WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(epoch: float) -> float:
        return round(left + LEFT + (right - left - LEFT) * (epoch - first) / float(max(last - first, 1)), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - TOP) * (value - low) / ((high - low) or 1.0), 1)

    parts = [f"<text x='{left + LEFT}' y='18' font-weight='bold'>{escape(panel.name)}</text>"]
    for mark in marks:
        parts.append(f"<path d='M{left + LEFT} {y(mark)}H{right}' stroke='#d0d7de'/>")
        parts.append(f"<text x='{left + LEFT - 6}' y='{y(mark) + 4}' text-anchor='end'>{mark:.4g}</text>")
    parts += [
        f"<text x='{x(epoch)}' y='{bottom + 16}' text-anchor='middle'>{epoch}</text>"
        for epoch in sorted({first, *(round(mark) for mark in ticks(first, last) if first < mark <= last)})
    ]
    parts.append(f"<text x='{(left + LEFT + right) / 2}' y='{bottom + 30}' text-anchor='middle'>epoch</text>")
    if best is not None and first <= best <= last:
        parts.append(f"<path d='M{x(best)} {TOP}V{bottom}' stroke='#57606a' stroke-dasharray='4 3'/>")
    place = left + LEFT + 12 + 8 * len(panel.name)
    for name, pieces in panel.curves.items():
        colour = COLOURS.get(name.partition("_")[0], OTHER)
        parts.append(f"<text x='{place}' y='18' fill='{colour}'>{escape(name.removesuffix(f'_{panel.name}'))}</text>")
        place += 72
        for piece in pieces:
            drawn = " ".join(f"{x(at)},{y(value)}" for at, value in piece)
            dot = f"<circle cx='{x(piece[0][0])}' cy='{y(piece[0][1])}' r='2' fill='{colour}'/>"
            line = f"<polyline fill='none' stroke='{colour}' stroke-width='1.5' points='{drawn}'/>"
            parts.append(dot if len(piece) == 1 else line)
    return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """About four round numbers in a range: `[0, 0.5, 1, 1.5, 2]` of 0.03 to 1.9."""
    span = max((high - low) or abs(high) or 1.0, SMALLEST)
    rough = span / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * each for each in (1, 2, 5, 10) if size * each >= rough)
    first, last = math.floor(low / step + ROUNDING), math.ceil(high / step - ROUNDING)
    return [float(f"{step * number:.12g}") for number in range(first, last + 1)]
