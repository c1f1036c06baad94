"""Formats numbers for people: durations, sizes, metrics, times and sparklines. Needs only the standard library."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loopline.files.counting import counted

if TYPE_CHECKING:
    from loopline.types import Dataset

BARS = "▁▂▃▄▅▆▇█"
NOTHING = "-"
UNSEEN = (
    r"\x00-\x1f\x7f-\x9f\ud800-\udfff"  # control characters (C0, DEL, C1), and halves of pairs
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of writing
    r"\u2028\u2029"  # ends of lines and of paragraphs
    r"\u180e\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # of no width
)
"""Control characters and invisible characters, written for the brackets of a regular expression."""
SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
CONTROL = re.compile(f"[{UNSEEN}]")
CONTROL_BUT_NEWLINES = re.compile(f"(?!\n)[{UNSEEN}]")


def duration(seconds: float | None) -> str:
    """`0.42 s`, `12 s`, `3 min 5 s`, `2 h 4 min`, `3 d 2 h`."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{max(seconds, 0):.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, below, unit_below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {unit_below}" if rest else "")
    return f"{whole} s"


def size(count: float | None) -> str:
    """Bytes in steps of 1000: `512 B`, `1.2 kB`, `34 MB`."""
    if count is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def number(value: float | None, digits: int = 4) -> str:
    """A measured number: `0.0123`, `2.197`, `1.2e-05`; `-` if it is missing or was not finite."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or value == 0:
        return str(int(value))
    return f"{value:.{digits}f}" if 0.001 <= abs(value) < 1000 else f"{value:.3g}"


def percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.0f}%"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """The time since a moment: `just now`, `5 min ago`, `3 d ago`."""
    if moment is None:
        return NOTHING
    seconds = seconds_since(moment, now)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= max(length, 5):
            return f"{seconds // length:.0f} {unit} ago"
    return "just now"


def seconds_since(moment: datetime | None, now: datetime | None = None) -> float:
    """Seconds since a time; 0 for None."""
    return 0.0 if moment is None else ((now or datetime.now(UTC)) - moment).total_seconds()


def when(moment: datetime | None) -> str:
    """A time in the local time zone, to the second."""
    return NOTHING if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z").strip()


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 epoch`, `2,000 epochs`."""
    return counted(number, one, many)


def printable(line: str) -> str:
    """Text from others without control characters and invisible characters: see UNSEEN."""
    return line if line.isprintable() else CONTROL.sub("", SEQUENCE.sub("", line.expandtabs(4)))


def one_line(words: str) -> str:
    """The same on one line, with one space between words."""
    return printable(" ".join(words.split()))


def shortened(words: str, most: int) -> str:
    """At most so many letters on one line: of longer words the middle is left out, because names of one search or
    batch differ at their ends. `speakers of v…[lr=0.0003]`"""
    words = one_line(words)
    end = (most - 1) // 2
    return words if len(words) <= most else f"{words[: most - 1 - end]}…{words[-end:]}"


def lines(words: str) -> str:
    """The same for several lines; their number does not change."""
    return words if words.isprintable() else CONTROL_BUT_NEWLINES.sub("", SEQUENCE.sub("", words.expandtabs(4)))


def as_json(document: object, indent: int | None = None) -> str:
    """The document as JSON, without characters that control a terminal."""
    dumped = json.dumps(document, indent=indent, ensure_ascii=False)
    return CONTROL_BUT_NEWLINES.sub(lambda found: json.dumps(found.group())[1:-1], dumped)


def understood(dataset: Dataset) -> str:
    """How the service understood a data set: `640 sequences of 7 to 29 steps, 12 features, 9 classes`, or
    `5160 texts of 2 to 11 characters, 2 classes`."""
    low, high, step = dataset.min_length, dataset.max_length, steps_of(dataset)
    steps = count(high, step) if low == high else f"{low} to {high} {step}s"
    values = "values to predict (float y)" if dataset.target == "values" and (dataset.target_dim or 1) == 1 else ""
    meant = values or targets(dataset)
    if step == "character":
        return f"{count(dataset.samples, 'text')} of {steps}, {meant}"
    return f"{count(dataset.samples, 'sequence')} of {steps}, {count(dataset.features, 'feature')}, {meant}"


def steps_of(dataset: Dataset) -> str:
    """What the lengths of a data set count, in the singular."""
    return "character" if (dataset.schema or {}).get("layout") == "text" else "step"


def targets(dataset: Dataset) -> str:
    """What there is to predict: `9 classes`, `12 tags, one for each step`, `3 yes-or-no labels`."""
    many = dataset.target_dim or 1
    words = {
        "classes": f"{many} classes",
        "tags": f"{count(many, 'tag')}, one for each step",
        "multilabel": count(many, "yes-or-no label"),
        "values": f"{many} values to predict" if many > 1 else "values",
        "text": "without labels",
    }
    return words.get(dataset.target, dataset.target)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The values as a line of at most `width` bars. Each bar is the mean of its part of the values; None is a gap."""
    if not values or width < 1:
        return ""
    columns = min(width, len(values))
    shares = [values[len(values) * i // columns : len(values) * (i + 1) // columns] for i in range(columns)]
    means = [sum(finite) / len(finite) if (finite := [v for v in share if v is not None]) else None for share in shares]
    present = [mean for mean in means if mean is not None]
    if not present:
        return ""
    low, high = min(present), max(present)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if mean is None else BARS[round((mean - low) * scale)] for mean in means)
