"""Carries out an order to predict: a model answers all sequences of a file, a piece after the other.

Each piece is a file of its own, which the supervisor registers as it does checkpoints. An attempt goes on behind the
last piece that was registered. The pieces are cut by the sequences alone, so every attempt cuts them alike, and the
result is the same however often the job was interrupted.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from loopline.prediction.answers import words
from loopline.prediction.errors import ModelUnusable as Unusable
from loopline.prediction.given import Given
from loopline.prediction.loading import TrainedModel, load

from services.errors import ModelUnusable
from services.training import checkpoint
from services.training.files.fitting import named, refusals
from services.training.messages import (
    CheckpointSaved,
    Event,
    File,
    Finished,
    Note,
    Order,
    Place,
    Started,
    Stopped,
    StopReason,
)

ROLE = "predicts"
FEWEST, MOST, PIECES = 500, 10_000, 20
"""Sequences of a piece, at least and at most, and how many pieces there are in between."""
MOST_WORK = 100_000_000_000
"""Multiplications of a piece: a few seconds of one core."""
MOST_NUMBERS = 4_000_000
"""Numbers of the steps of a piece, and of its answers."""
IN_FLIGHT = 3
"""Pieces that may wait to be registered."""
WAIT_SECONDS = 0.02

Stop = Callable[[], StopReason | None]


def name_of(sequences: int) -> str:
    """The name of the piece that ends with so many sequences."""
    return f"answers-{sequences:09d}.parquet"


def events(
    order: Order, device: torch.device, stop: Stop = lambda: None, recorded: Callable[[], float] = lambda: math.inf
) -> Iterator[Event]:
    """Carries out one order and yields what happens. `stop` is asked before each piece and answers with a reason to
    end; `recorded` counts the pieces of this attempt that are in the database.

    Raises DatasetInvalid if the model cannot answer these sequences, ModelUnusable, OSError.
    """
    model = _model(order, device)
    given = _given(model, order)
    pieces = Pieces.of(model, given, Path(order.directory), _weights(order))
    done = pieces.there(order.resume)
    yield Started(
        epochs=1,
        steps_per_epoch=len(given),
        resumed_from=Place(0, pieces.first(done)) if done else None,
        best=None,
        parameters=pieces.weights,
        device=str(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        checkpoints=pieces.ends[:done],
        details={"backend": model.backend},
        sequences=len(given),
    )
    if order.resume is None:
        for warning in given.warnings:
            yield Note("warning", "warning", warning, {})
    began = time.monotonic()
    for place in range(done, len(pieces.ends)):
        while place - done - recorded() >= IN_FLIGHT and stop() is None:
            time.sleep(WAIT_SECONDS)
        if (reason := stop()) is not None:
            yield Stopped(reason)
            return
        yield CheckpointSaved(0, pieces.ends[place], False, (pieces.answered(model, given, place),))
    took = time.monotonic() - began
    file, rows = pieces.together(order.spec["format"])
    yield Finished(
        {
            "model": order.spec["model"],
            "backend": model.backend,
            "file": file.name,
            "format": order.spec["format"],
            "bytes": file.bytes,
            "sha256": file.sha256,
            "sequences": len(given),
            "rows": rows,
            "sequences_per_second": round((len(given) - pieces.first(done)) / took, 1) if took > 0 else None,
            "warnings": list(given.warnings),
        },
        (file,),
    )


@dataclass(frozen=True)
class Pieces:
    """The sequences of a file, cut into pieces."""

    folder: Path
    ends: list[int]
    """Of each piece, how many sequences there are up to its end."""
    weights: int
    """Numbers that the model has learnt."""

    @classmethod
    def of(cls, model: TrainedModel, given: Given, folder: Path, weights: int) -> Pieces:
        return cls(folder, cut(_sizes(model, given, weights)), weights)

    def first(self, place: int) -> int:
        """The first sequence of a piece."""
        return self.ends[place - 1] if place else 0

    def there(self, newest: str | None) -> int:
        """How many of the first pieces are on the disk, up to the newest one that was registered."""
        if newest is None:
            return 0
        for place, end in enumerate(self.ends):
            path = self.folder / name_of(end)
            if path.name > Path(newest).name or not _is_whole(path):
                return place
        return len(self.ends)

    def answered(self, model: TrainedModel, given: Given, place: int) -> File:
        """Writes the answers of a piece. Raises DatasetInvalid."""
        with refusals():
            answer = model.answer(given.part(self.first(place), self.ends[place]))
        stream = io.BytesIO()
        pa.parquet.write_table(answer.to_arrow(), stream)
        return checkpoint.write_atomically(self.folder / name_of(self.ends[place]), stream.getvalue())

    def together(self, wanted: str) -> tuple[File, int]:
        """Writes all answers to one file; and how many rows it has."""
        path = self.folder / f"answers.{wanted}"
        part, rows = path.with_name(f"{path.name}.part"), 0
        try:
            with part.open("wb") as stream:
                add, end = (_parquet if wanted == "parquet" else _csv)(stream)
                for place in self.ends:
                    table = pa.parquet.read_table(self.folder / name_of(place))
                    add(table)
                    rows += len(table)
                end()
                stream.flush()
                os.fsync(stream.fileno())
            with part.open("rb") as written:
                digest = hashlib.file_digest(written, "sha256").hexdigest()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return File(path.name, path.stat().st_size, digest), rows


def cut(sizes: Sequence[float]) -> list[int]:
    """The ends of pieces of sequences; `sizes` says what part of a piece each sequence may fill at least."""
    most = min(max(len(sizes) // PIECES, FEWEST), MOST)
    sums = np.cumsum(sizes)
    ends, first, before = [], 0, 0.0
    while first < len(sums):
        full = int(np.searchsorted(sums, before + 1.0, side="right"))
        first = min(max(full, first + 1), first + most, len(sums))
        ends.append(first)
        before = float(sums[first - 1])
    return ends


def _sizes(model: TrainedModel, given: Given, weights: int) -> Sequence[float]:
    """What part of the largest piece each sequence is."""
    steps = given.lengths if given.texts is None else np.array([len(text) for text in given.texts], np.int64)
    by_step = max(weights / MOST_WORK, max(1, len(given.columns)) / MOST_NUMBERS)
    outputs = int(model.card["output_size"]) * (steps if model.task == "tagging" else 1)
    sizes: Sequence[float] = np.maximum(steps * by_step, outputs / MOST_NUMBERS)
    return sizes


def _is_whole(path: Path) -> bool:
    try:
        pa.parquet.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True


# ---- the model and its input


def _model(order: Order, device: torch.device) -> TrainedModel:
    saved = (order.baselines or {}).get(ROLE)
    if saved is None or saved.directory is None:
        raise ModelUnusable(f"The model {order.spec['model']} was deleted after the job was submitted.")
    folder = Path(saved.directory)
    try:
        if device.type != "cpu":
            return load(folder, "torch", device=str(device))
        try:
            return load(folder, threads=torch.get_num_threads())
        except Unusable:
            return load(folder, "torch")
    except Unusable as error:
        raise ModelUnusable(f"The model {saved.model} cannot be used: {error}") from error


def _weights(order: Order) -> int:
    saved = (order.baselines or {})[ROLE]
    assert saved is not None and saved.directory is not None, "_model() has loaded it"  # noqa: S101, PT018
    return max(1, (Path(saved.directory) / "model.safetensors").stat().st_size // 4)


def _given(model: TrainedModel, order: Order) -> Given:
    """The sequences of the file. Raises DatasetInvalid."""
    assert order.data is not None, "the service asks for a data set"  # noqa: S101
    path = Path(order.data)
    with refusals(), tempfile.TemporaryDirectory(prefix="loopline-") as work:
        return model.read(named(path, order.ending, Path(work)))


# ---- the result

Writer = tuple[Callable[[pa.Table], object], Callable[[], object]]


def _parquet(stream: Any) -> Writer:
    writers: list[pa.parquet.ParquetWriter] = []

    def add(table: pa.Table) -> None:
        if not writers:
            writers.append(pa.parquet.ParquetWriter(stream, table.schema))
        writers[0].write_table(table)

    return add, lambda: [writer.close() for writer in writers]


def _csv(stream: Any) -> Writer:
    text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
    lines = csv.writer(text)
    names: list[str] = []

    def add(table: pa.Table) -> None:
        if not names:
            names.extend(table.column_names)
            lines.writerow(names)
        lines.writerows(zip(*(words(column.to_pylist()) for column in table.columns), strict=True))

    return add, text.detach
