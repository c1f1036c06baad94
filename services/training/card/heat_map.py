"""Counts as the shades of a square."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement

from services.training.card.svg import CHARACTER, FAINT, INK, begun, finished, pixels, shortened, write

MOST_WRITTEN = 12
"""Rows into which counts are written, at most."""
LEVELS = 10


def heat_map(title: str, matrix: Sequence[Sequence[int]], names: Sequence[str], x_label: str, y_label: str) -> bytes:
    """Counts (rows, columns) as shades: each cell by its share of its row. Counts are written into up to 12 rows."""
    count = len(names)
    size = float(max(9, min(44, 480 // count)))  # whole numbers, which are short
    font = min(12.0, size * 0.8)
    shown = [shortened(name, 16) for name in names]
    room = 14.0 + font * 0.6 * max(map(len, shown))
    left, top = float(round(room + 26.0)), 64.0
    width = max(left + count * size + 40.0 + room * 0.5, 400.0)
    root = begun(title, width, top + count * size + room + 44.0)
    _scale(root, left, 42.0)
    for level, path in sorted(_shades(matrix, left, top, size).items()):
        SubElement(root, "path", {"d": path, "fill": _grey(level)})
    edge = {"x": pixels(left), "y": pixels(top), "width": pixels(count * size), "height": pixels(count * size)}
    SubElement(root, "rect", {**edge, "fill": "none", "stroke": FAINT})
    is_level = CHARACTER * max(map(len, shown)) < size
    for place, name in enumerate(shown):
        middle = (place + 0.5) * size
        write(root, left - 6, top + middle + font * 0.35, name, size=font, anchor="end")
        below = top + count * size
        if is_level:
            write(root, left + middle, below + font + 4, name, size=font, anchor="middle")
        else:
            write(root, left + middle + font * 0.35, below + 8, name, size=font, anchor="end", turn=-90)
    if count <= MOST_WRITTEN:
        _write_counts(root, matrix, left, top, size)
    write(root, left + count * size / 2, top + count * size + room + 26, x_label, anchor="middle", colour=FAINT)
    write(root, 14, top + count * size / 2, y_label, anchor="middle", colour=FAINT, turn=-90)
    return finished(root)


def _shades(matrix: Sequence[Sequence[int]], left: float, top: float, size: float) -> dict[int, str]:
    """Of each shade, from 1 to LEVELS, the path of all its cells."""
    found: dict[int, list[str]] = {}
    for row, counts in enumerate(matrix):
        total = sum(counts)
        for column, count in enumerate(counts):
            if count:
                side = pixels(size)
                cell = f"M{pixels(left + column * size)} {pixels(top + row * size)}h{side}v{side}h-{side}z"
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
            write(root, x, y, said, size=font, anchor="middle", colour="#ffffff" if is_dark else INK)


def _scale(root: Element, left: float, y: float) -> None:
    write(root, left, y + 4, "share of the row: 0%")
    x = left + 19 * CHARACTER + 6
    for level in range(1, LEVELS + 1):
        place = {"x": pixels(x + 8 * level), "y": pixels(y - 6), "width": "8", "height": "12"}
        SubElement(root, "rect", {**place, "fill": _grey(level)})
    write(root, x + 8 * (LEVELS + 1) + 6, y + 4, "100%")
