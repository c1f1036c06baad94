"""Draws docs/curve.svg, the picture in README.md, from the history of a training run.

    .venv/bin/python docs/curve.py model/history.json

`loopline download` writes history.json; CONTRIBUTING.md has every command. The picture holds the numbers that it was
drawn from, so a test can draw it again and compare. The script needs no plotting library.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parent / "curve.svg"
WIDTH, HEIGHT = 760, 300
TOP, BOTTOM = 62, 252
PANELS = {"loss": (52, 362), "accuracy": (432, 742)}
"""The left and right edge of each panel, in pixels."""
SPLITS = ("train", "validation")

# The colours of text and lines on a light page, and on a dark one. The background belongs to the picture.
STYLE = """\
.page{fill:#ffffff;stroke:#d0d7de}text{font:13px sans-serif;fill:#1f2328}.axis{stroke:#d0d7de}.small{font-size:11px}
.train{stroke:#0969da;fill:none}.validation{stroke:#bc4c00;fill:none}.best{stroke:#57606a;stroke-dasharray:4 3}
path{stroke-width:2}.axis{stroke-width:1}
@media (prefers-color-scheme:dark){.page{fill:#0d1117;stroke:#3d444d}text{fill:#e6edf3}.axis{stroke:#3d444d}
.train{stroke:#4c9aff}.validation{stroke:#ff9b50}.best{stroke:#9198a1}}"""


def numbers(epochs: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """What is drawn, by name: one number per epoch."""
    names = (f"{split}_{measure}" for measure in PANELS for split in SPLITS)
    return {name: [round(epoch[name], 4) for epoch in epochs] for name in names}


def draw(drawn: dict[str, list[float]]) -> str:
    """The picture: loss on the left, accuracy on the right, and a dashed line at the best epoch."""
    losses = drawn["validation_loss"]
    best = losses.index(min(losses)) + 1
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">',
        f"<title>Loss and accuracy of {len(losses)} epochs; the best epoch is {best}</title>",
        f"<metadata>{json.dumps(drawn)}</metadata>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>',
    ]
    for measure, (left, right) in PANELS.items():
        lines += panel(measure, left, right, drawn, best)
    return "\n".join([*lines, "</svg>", ""])


def panel(measure: str, left: int, right: int, drawn: dict[str, list[float]], best: int) -> list[str]:
    """The title, the axes with their ticks, the two curves and the best epoch."""
    epochs = len(drawn[f"train_{measure}"])
    step = 0.25 if measure == "accuracy" else 0.5
    values = [value for split in SPLITS for value in drawn[f"{split}_{measure}"]]
    highest = math.ceil(max(values) / step) * step

    def x(epoch: float) -> float:
        return round(left + (right - left) * (epoch - 1) / (epochs - 1), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * value / highest, 1)

    lines = [f'<text x="{left}" y="26" font-weight="bold">{measure}</text>']
    for place, split in zip((left + 82, left + 160), SPLITS, strict=True):
        lines.append(
            f'<path class="{split}" d="M{place} 22h18"/><text class="small" x="{place + 23}" y="26">{split}</text>'
        )
    for tick in range(int(highest / step) + 1):
        value = tick * step
        lines.append(f'<path class="axis" d="M{left} {y(value)}H{right}"/>')
        lines.append(f'<text class="small" x="{left - 6}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>')
    lines += [
        f'<text class="small" x="{x(epoch)}" y="{BOTTOM + 18}" text-anchor="middle">{epoch}</text>'
        for epoch in (1, *range(10, epochs + 1, 10))
    ]
    middle = (left + right) / 2
    lines.append(f'<text class="small" x="{middle}" y="{BOTTOM + 36}" text-anchor="middle">epoch</text>')
    lines.append(f'<path class="best" d="M{x(best)} {TOP}V{BOTTOM}"/>')
    lines.append(f'<text class="small" x="{x(best) + 6}" y="{TOP - 8}">best epoch: {best}</text>')
    for split in SPLITS:
        points = " ".join(f"{x(at)},{y(value)}" for at, value in enumerate(drawn[f"{split}_{measure}"], start=1))
        lines.append(f'<polyline class="{split}" stroke-width="2" points="{points}"/>')
    return lines


def numbers_of(picture: str) -> dict[str, list[float]]:
    """The numbers that a picture was drawn from."""
    read: dict[str, list[float]] = json.loads(re.findall(r"<metadata>(.*)</metadata>", picture)[0])
    return read


if __name__ == "__main__":
    history = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    PICTURE.write_text(draw(numbers(history["epochs"])), encoding="utf-8")
    print(f"Wrote {PICTURE}")
