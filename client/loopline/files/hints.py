"""What columns are usually called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

TARGETS = (
    *("label", "labels", "class", "target", "targets", "y", "activity", "category", "outcome", "output", "species"),
    *(
        "diagnosis",
        "sentiment",
        "emotion",
        "intent",
        "gesture",
        "tag",
        "tags",
        "class_label",
        "classname",
        "class_name",
    ),
)
"""Of targets, the surest first, in small letters as all names here."""
TEXTS = (
    *("text", "texts", "sentence", "message", "review", "comment", "content", "body", "document", "utterance", "tweet"),
    *("title", "question", "description", "phrase"),
)
ORDERS = (
    *("timestamp", "datetime", "date_time", "time_hour", "time", "date", "ts", "t", "step", "steps", "time_step"),
    *(
        "timestep",
        "elapsed",
        "frame",
        "cycle",
        "cycles",
        "time_in_cycles",
        "tick",
        "seq",
        "sequence_number",
        "position",
    ),
    *("sample", "second", "seconds", "sec", "ms", "minute", "hour", "day", "week", "month", "year", "index", "idx"),
)
COUNTERS = ("", "index", "idx", "row", "row_id", "rowid", "row_number", "unnamed: 0", "unnamed_0", "column_1")
"""Of columns that a program added to number the rows."""
WEIGHTS = ("weight", "weights", "sample_weight")
SPLITS = ("split", "set", "subset", "partition")
_GROUPS = re.compile(
    r"(.*[_ .-])?(id|ids|uuid|guid|group|series|sequence|seq|recording|rec|session|subject|patient|participant|person"
    r"|user|unit|unit_number|engine|machine|device|trip|trial|episode|run|file|filename|source|station|sensor|store|item"
    r"|origin|symbol|ticker|customer|household|meter|speaker|key)",
    re.IGNORECASE,
)
_GROUPS_IN_ONE_WORD = re.compile(r"[a-z]+(Id|ID|Name|No|Nr)$")
_UNIT = re.compile(r"[_ ]?[(\[]?(s|sec|secs|seconds|ms|us|ns|min|h|hours|utc|gmt|local)[)\]]?$")


def names_group(name: str) -> bool:
    """Whether a column is called as one that names sequences or series."""
    return bool(_GROUPS.fullmatch(name.strip()) or _GROUPS_IN_ONE_WORD.search(name.strip()))


def called(known: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that are among the known ones, in the order of those."""
    found = [name for name in names if name.lower().strip() in known]
    return sorted(found, key=lambda name: known.index(name.lower().strip()))


def called_order(names: Iterable[str]) -> list[str]:
    """The names of columns that order steps, also those with a unit: `time_ms`, `t (s)`."""
    bare = {name: _UNIT.sub("", name.lower().strip()) for name in names}
    found = [name for name in bare if name.lower().strip() in ORDERS or bare[name] in ORDERS]
    return sorted(found, key=lambda name: ORDERS.index(bare[name] if bare[name] in ORDERS else name.lower().strip()))
