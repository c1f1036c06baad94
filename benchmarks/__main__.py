"""`python -m benchmarks [loop cost gate ...]`: measures the named `PARTS` or all of them, prints a table, and saves it.

Exits 1 when a figure does not reach what is asked of it. Other work on the machine spoils every figure but the ratios.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import (
    asking,
    auto,
    cores,
    cost,
    demand,
    engine,
    gate,
    lengths,
    loop,
    many_models,
    mapped,
    pages,
    predicting,
    readers,
    recovery,
    searching,
    shuffled,
    start,
    turns,
    vowels,
)

RESULTS = Path(__file__).parent / "RESULTS.md"
PARTS: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
    "loop": loop.rows,
    "engine": engine.rows,
    "lengths": lengths.rows,
    "cores": cores.rows,
    "start": start.rows,
    "cost": cost.rows,
    "turns": turns.rows,
    "recovery": recovery.rows,
    "vowels": vowels.rows,
    "gate": gate.rows,
    "demand": demand.rows,
    "asking": asking.rows,
    "readers": readers.rows,
    "mapped": mapped.rows,
    "predicting": predicting.rows,
    "many_models": many_models.rows,
}
LONG: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
    "pages": pages.rows,
    "searching": searching.rows,
    "shuffled": shuffled.rows,
    "auto": auto.rows,
}
"""These take ten minutes or more each, and the last one many hours, so they are measured only if they are named."""
HEAD = "| what | ours | other | ratio | at least | |\n| --- | --- | --- | --- | --- | --- |"


def line(row: dict[str, Any]) -> str:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    least = "" if row["at_least"] is None else f"{row['at_least']:.2f}"
    return f"| {row['what']} | {row['ours']} | {row['other']} | {ratio} | {least} | {verdict(row)} |"


def verdict(row: dict[str, Any]) -> str:
    if row["at_least"] is None:
        return ""
    return "reached" if row["ratio"] >= row["at_least"] else "**missed**"


def main(names: list[str]) -> int:
    known = PARTS | LONG
    unknown = set(names) - set(known)
    if unknown:
        print(f"There is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}.", file=sys.stderr)
        return 2
    print(HEAD, flush=True)
    found = []
    for name in names or PARTS:
        for row in known[name]():
            found.append(row)
            print(line(row), flush=True)
    if not names:
        save(found)
        print(f"\nSaved in {RESULTS.relative_to(Path.cwd())}")
    return int(any(verdict(row) == "**missed**" for row in found))


def save(found: list[dict[str, Any]]) -> None:
    import torch

    machine = f"{os.cpu_count()} cores, {platform.machine()}, "
    machine += f"Python {platform.python_version()}, torch {torch.__version__}"
    text = (
        "# What `make bench` measured\n\n"
        f"On {datetime.now(UTC):%d %B %Y}; {machine}. A ratio compares two things measured in turns in the same run; "
        "seconds are of that machine on that day.\n\n"
    )
    RESULTS.write_text(text + "\n".join([HEAD, *map(line, found)]) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
