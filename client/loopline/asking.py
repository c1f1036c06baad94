"""Asks models over HTTP: where a model is, and how a question is sent."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loopline.errors import BadRequest
from loopline.files.named import named_file

PRODUCTION = "production"


def path_of(model: str) -> str:
    """Where to ask `vowels@3`, `vowels@production`, `vowels` (its version in production), or the job of an id."""
    if model.startswith("job_"):
        return f"/v1/jobs/{quote(model, safe='')}/predict"
    name, _, ref = in_full(model).partition("@")
    return f"/v1/models/{quote(name, safe='')}/versions/{quote(ref, safe='')}/predict"


def in_full(model: str) -> str:
    """A name alone means the version in production: `vowels@production` for `vowels`."""
    name, _, ref = model.partition("@")
    return model if ref or model.startswith("job_") else f"{name}@{PRODUCTION}"


def body_of(x: Any, besides: Mapping[str, Any]) -> tuple[str, bytes]:
    """The type and the bytes of a question. Raises BadRequest if `x` is none."""
    if isinstance(x, str) and (way_out := named_file(x)) is not None:
        raise BadRequest(f"It is not clear what to ask: {way_out}.")
    if isinstance(x, os.PathLike):
        x = _content(Path(x))
    if isinstance(x, bytes):
        if any(each is not None for each in besides.values()):
            raise BadRequest("A table has columns for static, future, ids and end: leave them out.")
        return "text/csv", x
    values = _plain([x] if isinstance(x, str) else x)
    if not isinstance(values, list) or not values:
        raise BadRequest(
            "Give an array, a list of arrays, of texts or of rows (dict), or a Path or the bytes of a CSV."
        )
    way = "texts" if isinstance(values[0], str) else "rows" if isinstance(values[0], dict) else "x"
    given = {name: _plain(each) for name, each in besides.items() if each is not None}
    try:
        return "application/json", json.dumps({way: values, **given}, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise BadRequest(f"This cannot be sent ({error}): give numbers, texts or rows.") from None


def times(given: Any) -> Any:
    """Dates and times as words: one, or a list."""
    if given is None or isinstance(given, str):
        return given
    if hasattr(given, "isoformat"):
        return given.isoformat()
    return (
        [times(each) for each in given] if getattr(given, "shape", (1,)) and hasattr(given, "__iter__") else str(given)
    )


def _content(path: Path) -> bytes:
    if path.suffix.lower() != ".csv":
        raise BadRequest(
            f"{path.name} is no CSV: give a file that ends in .csv, or use `loopline predict` or `loopline.load`, "
            "which read other formats on this computer."
        )
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadRequest(f"There is no file {path}.") from None
    except OSError as error:
        raise BadRequest(f"Cannot read {path}: {error.strerror or error}.") from error


def _plain(values: Any) -> Any:
    """Arrays as lists; NaN, which is a missing value, as None."""
    if hasattr(values, "detach"):  # a tensor of torch may be on a GPU, or have a gradient
        values = values.detach().cpu()
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, Mapping):
        return {str(name): _plain(each) for name, each in values.items()}
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return [_plain(each) for each in values]
    return None if isinstance(values, float) and math.isnan(values) else values
