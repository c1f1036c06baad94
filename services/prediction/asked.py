"""Reads what a request asks a model about.

Numbers become arrays of float64 at once. numpy itself would choose a type that fits all values, and one long word among
many numbers would take gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from loopline.files.problems import Problem as Found
from loopline.prediction.errors import InputInvalid as ModelInputInvalid
from loopline.prediction.given import Given
from loopline.prediction.loading import TrainedModel
from numpy.typing import NDArray

from services.blobs.storage import Storage
from services.errors import BadRequest, InputInvalid, Problem, TooLarge

WAYS = ("x", "texts", "rows")
BESIDES = ("static", "future", "ids", "end")
MOST_COLUMNS = 10_000
MOST_CELLS = 1_000_000
MOST_SEQUENCES = 10_000
MOST_STEPS = 100_000
"""Of a sequence."""
MOST_ID = 200
"""Characters."""
FEWER = "Send fewer sequences in a request, or download the model and predict with it (docs/predict.md)."
# What else could be in a file that `TrainedModel.read` takes: binary formats, and the end of a zip.
_NO_TABLE = re.compile(rb"PAR1|PK\x03\x04|\x1f\x8b|\x93NUMPY|.*(\0|PK\x05\x06)", re.DOTALL)

_ABOUT = re.compile(r"(?:^|(?:leave|give|give an|are \S+) )(static|future|ids?|end)\b")
"""What a sentence is about."""


@dataclass(frozen=True)
class Asked:
    """What a model is asked about: `x` in one of the ways that `TrainedModel.read` takes, or a CSV."""

    way: str
    """`x`, `texts`, `rows` or `csv`."""
    x: Any
    besides: Mapping[str, Any] = field(default_factory=dict)


def of_json(body: bytes) -> Asked:
    """Raises BadRequest if it is no JSON, and InputInvalid if it is no question."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise BadRequest("The body cannot be read.", [Problem("", f"is no JSON: {where}")]) from None
    if not isinstance(found, dict):
        raise _invalid("", "must be an object with `x`, `texts` or `rows`")
    ways = [way for way in WAYS if found.get(way) is not None]
    known = {*WAYS, *(BESIDES if ways != ["rows"] else ())}
    if unknown := [key for key in found if key not in known]:
        raise InputInvalid(
            [
                Problem(f"/{_token(key)}", f"is not known here; there are {', '.join(sorted(known))}")
                for key in unknown[:20]
            ]
        )
    if len(ways) != 1:
        raise _invalid("", f"must have one of `x`, `texts` and `rows`; it has {' and '.join(ways) or 'none'}")
    [way] = ways
    values = found[way]
    if not isinstance(values, list) or not values:
        raise _invalid(f"/{way}", "must be a list that is not empty")
    arrays = [key for key in ("static", "future") if found.get(key) is not None]
    besides: dict[str, Any] = {key: _numbers(found[key], f"/{key}") for key in arrays}
    if found.get("ids") is not None:
        besides["ids"] = _ids(found["ids"])
    if found.get("end") is not None:
        besides["end"] = found["end"]
    reader = {"x": _sequences, "texts": _texts, "rows": _columns}[way]
    return Asked(way, reader(values), besides)


def of_csv(body: bytes) -> Asked:
    """Raises InputInvalid if it is no text."""
    if not body:
        raise _invalid("", "is empty: send a table as CSV")
    if _NO_TABLE.match(body):
        raise _invalid("", "is no CSV: send text in UTF-8")
    return Asked("csv", body)


def given_to(model: TrainedModel, asked: Asked, storage: Storage) -> Given:
    """The sequences that the model is asked about. Raises InputInvalid, TooLarge."""
    if asked.way == "texts" and not model.reads_texts:
        raise _invalid("/texts", "the model takes no texts: send `x` or `rows`")
    if asked.way == "x" and model.reads_texts:
        raise _invalid("/x", "the model takes texts: send `texts`")
    with problems_of(asked):
        if asked.way != "csv":
            return model.read(asked.x, **asked.besides)
        with storage.work() as folder:
            path = folder / "table.csv"
            path.write_bytes(asked.x)
            return model.read(path)


# ---- JSON


def _sequences(x: list[Any]) -> Any:
    """One array, or a list of arrays (steps, features) where sequences have different lengths."""
    if len(x) > MOST_STEPS:  # of one sequence, and there are never more sequences
        raise TooLarge(f"x is a list of {len(x):,}, and {MOST_STEPS:,} steps are the most. {FEWER}")
    try:
        return np.array(x, np.float64)
    except (ValueError, TypeError, OverflowError):
        if len(x) > MOST_SEQUENCES:
            raise TooLarge(f"There are {len(x):,} sequences, and {MOST_SEQUENCES:,} are the most. {FEWER}") from None
        return [_numbers(each, f"/x/{place}") for place, each in enumerate(x)]


def _numbers(values: Any, pointer: str) -> NDArray[np.float64]:
    """null is NaN."""
    try:
        return np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        why = str(error)
        if "inhomogeneous" in why:
            raise _invalid(pointer, "must have lists of equal length: each step as many numbers as any other") from None
        word = why.partition("could not convert string to float: ")[2][:40]
        raise _invalid(
            pointer, f"must have numbers only{f', and has {word}' if word else ''}; null is unknown"
        ) from None


def _ids(ids: Any) -> list[str]:
    if not isinstance(ids, list) or any(isinstance(each, bool) or not isinstance(each, str | int) for each in ids):
        raise _invalid("/ids", "must be a list of words or whole numbers")
    found = list(map(str, ids))
    long = next((place for place, each in enumerate(found) if len(each) > MOST_ID), None)
    if long is not None:
        raise _invalid(f"/ids/{long}", f"must have at most {MOST_ID} characters")
    return found


def _texts(texts: list[Any]) -> list[str]:
    for place, each in enumerate(texts):
        if not isinstance(each, str):
            raise _invalid(f"/texts/{place}", "must be a text")
    return texts


def _columns(rows: list[Any]) -> dict[str, list[Any]]:
    """The columns of all rows; null where a row lacks one."""
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise _invalid(f"/rows/{place}", "must be an object with a value for each column")
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
        if len(names) > MOST_COLUMNS:
            raise TooLarge(f"The rows have more than {MOST_COLUMNS:,} columns, which is the most.")
    if len(rows) * len(names) > MOST_CELLS:
        raise TooLarge(f"The table has {len(rows) * len(names):,} cells, and {MOST_CELLS:,} are the most. {FEWER}")
    return {name: [row.get(name) for row in rows] for name in names}


# ---- problems


@contextmanager
def problems_of(asked: Asked) -> Iterator[None]:
    """Says what a model refuses in the terms of a request. Raises InputInvalid."""
    try:
        yield
    except ModelInputInvalid as error:
        raise InputInvalid([_problem(asked, found) for found in error.problems]) from error


def _problem(asked: Asked, found: Found) -> Problem:
    if asked.way == "csv" and not re.search(rb"[\r\n]", asked.x):
        return Problem(
            "", f"{found}; the body is one line: send it with curl --data-binary, because -d removes line ends"
        )
    if asked.way in ("csv", "rows"):
        return Problem("" if asked.way == "csv" else "/rows", str(found))
    sequence = re.fullmatch(r"sequence (\d+)", found.where)
    if sequence and "ids" not in asked.besides:
        return Problem(f"/{asked.way}/{sequence[1]}", found.detail)
    about = found.where if found.where in BESIDES else next(iter(_ABOUT.findall(found.detail)), asked.way)
    return Problem("/ids" if about == "id" else f"/{about}", str(found))


def _invalid(pointer: str, detail: str) -> InputInvalid:
    return InputInvalid([Problem(pointer, detail)])


def _token(key: str) -> str:
    """A key in a JSON pointer."""
    return key[:100].replace("~", "~0").replace("/", "~1")
