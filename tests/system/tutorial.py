"""docs/tutorial.md, read: what it tells the reader to do, and whether something prints what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def steps(page: str) -> Iterator[tuple[str, str, str]]:
    """What a reader does, in order: ("file", name, text) for each file, ("sh", commands, output) for each command."""
    found = [*BLOCK.finditer(page)]
    for block, following in zip(found, [*found[1:], None], strict=True):
        language, text = block.groups()
        saved = re.search(r"Save\s+this\s+as\s+`([\w.]+)`:\n\n\Z", page[: block.start()])
        if saved:
            yield "file", saved.group(1), text
        elif language == "sh":
            # What is printed is the next block without a language, unless a heading stands between them.
            is_shown = following and not following.group(1) and "\n#" not in page[block.end() : following.start()]
            yield "sh", text, following.group(2) if following and is_shown else ""


def output_of(command: str) -> str:
    [shown] = [shown for _, what, shown in steps(PAGE) if what == f"{command}\n"]
    return shown


def comparable(printed: str) -> str:
    """The text without what differs from run to run: ids, times, sizes, folders, ports and the digits of a loss."""
    for pattern, instead in (
        (r"\b(job|ds|batch)_[0-9a-z]{26}\b", r"\1_ID"),
        (r"^job_ID (queued|running).*\n", ""),  # a job may start before it is looked at
        (r"(data|logs|in) +/\S+", r"\1 FOLDER"),
        (r"127\.0\.0\.1:\d{4,5}", "127.0.0.1:PORT"),
        (r"epoch +\d+/\d+", "epoch N/M"),
        (r"(epochs?) \d+|\b\d+ epochs?\b", "epoch N"),
        (r"\d+\.\d+(e-\d+)?", "N"),
        (r"\bjust now\b", "N s ago"),
        (r"\b(\d+|N) (s|min|h)\b", "N TIME"),  # how fast it trains depends on the machine
        (r"\b(\d+|N) kB\b", "N kB"),
        (r" *\*?$", ""),
        (r" +", " "),
    ):
        printed = re.sub(pattern, instead, printed, flags=re.MULTILINE)
    return printed.strip()


def assert_prints(printed: str, shown: str) -> None:
    """The page shows what is printed; a line `...` stands for any lines."""
    parts = [re.escape(comparable(part)) for part in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE)]
    assert re.fullmatch(r"[\s\S]*".join(parts), comparable(printed)), f"printed:\n{printed}\nshown:\n{shown}"
