"""How objects of the client look at a prompt and in a notebook. Everything from the service is shown as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from loopline.types import Epoch

MOST_POINTS = 300
"""Epochs of a curve; of more, every second, third ... is drawn."""
WIDTH, HEIGHT = 420, 140
COLOURS = {"train": "#2563eb", "validation": "#c2410c"}


def line(kind: str, id: str, name: str | None, *parts: str | None) -> str:
    """One line such as `Job('job_01m8...', 'vowels', succeeded, epoch 20 of 20)`."""
    shown = [repr(id), *([repr(name)] if name else []), *(part for part in parts if part)]
    return f"{kind}({', '.join(shown)})"


def counted(counts: Mapping[str, int]) -> str:
    """`3 running, 1 failed`"""
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def table(title: str, rows: Iterable[tuple[str, str | None]], picture: str = "") -> str:
    """HTML: a title, a table of names and values, and a picture below."""
    cells = [
        f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
        for name, value in rows
        if value
    ]
    return f"<div><strong>{escape(title)}</strong><table>{''.join(cells)}</table>{picture}</div>"


def losses(epochs: Sequence[Epoch]) -> str:
    """SVG: training and validation loss by epoch; nothing if there are fewer than two epochs."""
    some = epochs[:: max(1, math.ceil(len(epochs) / MOST_POINTS))]
    series = {
        "train": [(each.epoch, each.train_loss) for each in some],
        "validation": [(each.epoch, each.validation_loss) for each in some],
    }
    points = {name: [(x, y) for x, y in found if y is not None and math.isfinite(y)] for name, found in series.items()}
    every = [point for found in points.values() for point in found]
    if len(every) < 2:
        return ""
    xs, ys = [x for x, _ in every], [y for _, y in every]
    left, low = min(xs), min(ys)
    wide, high = max(max(xs) - left, 1), (max(ys) - low) or 1.0

    def place(x: float, y: float) -> str:
        return f"{4 + (x - left) / wide * (WIDTH - 8):.1f},{4 + (1 - (y - low) / high) * (HEIGHT - 8):.1f}"

    drawn = [
        f"<polyline fill='none' stroke='{COLOURS[name]}' points='{' '.join(place(*point) for point in found)}'/>"
        for name, found in points.items()
        if found
    ]
    label = f"Loss from {max(ys):.4g} to {low:.4g}, over epochs {left} to {max(xs)}"
    key = " ".join(f"<span style='color:{COLOURS[name]}'>{name}</span>" for name, found in points.items() if found)
    return (
        f"<svg role='img' aria-label='{label}' width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}'>"
        f"{''.join(drawn)}</svg><div><small>{label}: {key}</small></div>"
    )
