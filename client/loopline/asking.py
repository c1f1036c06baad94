"""Asks models over HTTP: where a model is, and how a question is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from loopline.errors import BadRequest

LATEST = "latest"


def path_of(model: str) -> str:
    """Where to ask `vowels@3`, `vowels@production`, `vowels` (its newest version), or the job of an id."""
    if model.startswith("job_"):
        return f"/v1/jobs/{quote(model, safe='')}/predict"
    name, _, ref = model.partition("@")
    return f"/v1/models/{quote(name, safe='')}/versions/{quote(ref or LATEST, safe='')}/predict"


def body_of(x: Any, besides: Mapping[str, Any]) -> tuple[str, bytes]:
    """The type and the bytes of a question. Raises BadRequest if `x` is none."""
    if isinstance(x, bytes):
        if any(each is not None for each in besides.values()):
            raise BadRequest("A table has columns for static, future and ids: leave them out.")
        return "text/csv", x
    values = _plain([x] if isinstance(x, str) else x)
    if not isinstance(values, list) or not values:
        raise BadRequest("Give an array, a list of arrays, of texts or of rows (dict), or the bytes of a CSV.")
    way = "texts" if isinstance(values[0], str) else "rows" if isinstance(values[0], dict) else "x"
    given = {name: _plain(each) for name, each in besides.items() if each is not None}
    try:
        return "application/json", json.dumps({way: values, **given}, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise BadRequest(f"This cannot be sent ({error}): give numbers, texts or rows.") from None


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
