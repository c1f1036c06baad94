"""Whether two models are the same, bit for bit, and if not, what was different when they were trained."""

from __future__ import annotations

import hashlib
import json
import struct
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopline.errors import DownloadFailed

TIMES = ("seconds", "samples_per_second")
"""What differs between two equal runs."""


@dataclass(frozen=True)
class Reproduction:
    """A model beside another one of the same spec."""

    sha256: str
    """Of the weights of the first."""
    is_same: bool
    """The weights are the same, bit for bit."""
    largest_difference: float | None
    """Between two weights; None where none differ, or where the networks have different sizes."""
    where: str | None
    """The name of the array with the largest difference."""
    first_epoch: int | None
    """The first epoch whose numbers differ; None where no epoch differs."""
    differences: tuple[str, ...]
    """What was different when they were trained: `torch was 2.12.0, and is 2.13.0`."""

    def sentences(self) -> list[str]:
        """What a person wants to know, a sentence each."""
        if self.is_same:
            return [f"The weights are the same, bit for bit (sha256 {self.sha256[:12]}...)."]
        found = ["The weights are different."]
        if self.largest_difference is not None:
            found = [f"The weights differ by up to {self.largest_difference:.3g} ({self.where})."]
        if self.first_epoch is not None:
            found.append(f"The histories differ from epoch {self.first_epoch} on.")
        found += [f"{each}." for each in self.differences]
        if not self.differences:
            found.append(
                "Data, settings, versions and device are the same. Some operations of a GPU are not deterministic; "
                "training.deterministic: true forbids them."
            )
        return found


def compared(first: Path, second: Path) -> Reproduction:
    """Two folders that `Job.download` has made: that of the model, and that of the one trained again.

    Raises DownloadFailed if a file is missing or cannot be read.
    """
    try:
        weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second)]
        cards = [json.loads((folder / "model.json").read_bytes()) for folder in (first, second)]
        histories = [json.loads((folder / "history.json").read_bytes()) for folder in (first, second)]
        is_same = weights[0] == weights[1]
        largest, where = (None, None) if is_same else _largest_difference(*weights)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise DownloadFailed(f"The models cannot be compared: {error}.") from error
    return Reproduction(
        sha256=hashlib.sha256(weights[0]).hexdigest(),
        is_same=is_same,
        largest_difference=largest,
        where=where,
        first_epoch=_first_epoch(*histories),
        differences=tuple(_different(*map(_made_with, cards))),
    )


def _largest_difference(first: bytes, second: bytes) -> tuple[float | None, str | None]:
    ours, theirs = dict(_arrays(first)), dict(_arrays(second))
    if ours.keys() != theirs.keys() or any(len(ours[name]) != len(theirs[name]) for name in ours):
        return None, None
    by_name = {
        name: max((abs(a - b) for a, b in zip(ours[name], theirs[name], strict=True)), default=0.0) for name in ours
    }
    where = max(by_name, key=by_name.__getitem__)
    return by_name[where], where


def _arrays(file: bytes) -> Iterator[tuple[str, array[float]]]:
    """The float32 arrays of a safetensors file: 8 bytes of length, a header in JSON, the numbers."""
    (length,) = struct.unpack("<Q", file[:8])
    header, start = json.loads(file[8 : 8 + length]), 8 + length
    for name, about in header.items():
        if name != "__metadata__" and about["dtype"] == "F32":
            begin, end = about["data_offsets"]
            yield name, array("f", file[start + begin : start + end])


def _first_epoch(first: Mapping[str, Any], second: Mapping[str, Any]) -> int | None:
    ours, theirs = ([_untimed(epoch) for epoch in each.get("epochs", [])] for each in (first, second))
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), 1):
        if one != other:
            return number
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs)) + 1


def _untimed(epoch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in epoch.items() if name not in TIMES}


def _made_with(card: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights: data, spec and tools."""
    spec = {f"spec {path}": value for path, value in leaves(card.get("spec") or {})}
    data = (card.get("data") or {}).get("sha256")
    return {**spec, "the hash of the data": data, **(card.get("made_with") or {})}


def leaves(document: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if f"{path}{name}" in UNTOLD:
            continue
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


UNTOLD = ("name", "priority", "queue", "tags", "data.dataset", "data.split.evaluate_test")
"""Fields of a spec that do not change the weights."""


def _different(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    for name in {**first, **second}:
        one, other = first.get(name), second.get(name)
        if one != other:
            yield f"{name} was {_said(one)}, and is {_said(other)}"


def _said(value: Any) -> str:
    if value is None:
        return "not recorded"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
