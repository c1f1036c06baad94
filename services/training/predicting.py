"""Carries out an order to predict: a model answers all sequences of a file, a piece after the other.

Each piece is a file of its own (`pieces.py`), which the supervisor registers as it does checkpoints. An attempt goes on
behind the last piece of those that follow one upon the other. The pieces are cut by the sequences alone, so every
attempt cuts them alike, and the result is the same however often the job was interrupted.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from loopline.prediction.errors import ModelUnusable as Unusable
from loopline.prediction.given import Given
from loopline.prediction.loading import TrainedModel, load

from services.errors import ModelUnusable
from services.training import pieces
from services.training.files.fitting import named, refusals
from services.training.messages import (
    CheckpointSaved,
    Event,
    Finished,
    Log,
    Note,
    Order,
    Place,
    Started,
    Stopped,
    StopReason,
)
from services.training.pieces import Piece

ROLE = "predicts"
MOST_WORK = 100_000_000_000
"""Multiplications of a piece: a few seconds of one core."""
MOST_NUMBERS = 4_000_000
"""Numbers of the steps of a piece, and of its answers."""
IN_FLIGHT = 3
"""Pieces that may wait to be registered."""
WAIT_SECONDS = 0.02

Stop = Callable[[], StopReason | None]


def events(
    order: Order, device: torch.device, stop: Stop = lambda: None, recorded: Callable[[], float] = lambda: math.inf
) -> Iterator[Event]:
    """Carries out one order and yields what happens. `stop` is asked before each piece and answers with a reason to
    end; `recorded` counts the pieces of this attempt that are in the database.

    Raises DatasetInvalid if the model cannot answer these sequences, ModelUnusable, CheckpointCorrupt, OSError.
    """
    model = _model(order, device)
    given = _given(model, order)
    weights = _weights(order)
    made = pieces.unbroken(Path(order.directory), order.pieces, model.task, len(given))
    before = made[-1].end if made else 0
    yield Started(
        epochs=1,
        steps_per_epoch=len(given),
        resumed_from=Place(0, before) if made else None,
        best=None,
        parameters=weights,
        device=str(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        details={"backend": model.backend},
        sequences=len(given),
    )
    yield from _remarks(order, given, made)
    began, done = time.monotonic(), len(made)
    for end in pieces.cut(_sizes(model, given, weights), before):
        while len(made) - done - recorded() >= IN_FLIGHT and stop() is None:
            time.sleep(WAIT_SECONDS)
        if (reason := stop()) is not None:
            yield Stopped(reason)
            return
        made.append(_piece(model, given, Path(order.directory), made[-1].end if made else 0, end))
        yield CheckpointSaved(0, end, False, (made[-1].file,))
    took = time.monotonic() - began
    wanted = order.spec["format"]
    file, rows = pieces.together(Path(order.directory), made, wanted, model.task, len(given))
    yield Finished(
        {
            "model": order.spec["model"],
            "backend": model.backend,
            "file": file.name,
            "format": wanted,
            "bytes": file.bytes,
            "sha256": file.sha256,
            "sequences": len(given),
            "rows": rows,
            "sequences_per_second": round((len(given) - before) / took, 1) if took > 0 else None,
            "warnings": list(given.warnings),
        },
        (file,),
    )


def _remarks(order: Order, given: Given, made: Sequence[Piece]) -> Iterator[Event]:
    """What makes the answers less sure, once; and which pieces of earlier attempts are of no use."""
    if not order.pieces:
        for warning in given.warnings:
            yield Note("warning", "warning", warning, {})
    if len(made) < len(order.pieces):
        first = order.pieces[len(made)].name
        message = f"The piece {first} is damaged, missing or does not follow: its sequences are answered again."
        yield Log("warning", message)


def _piece(model: TrainedModel, given: Given, folder: Path, first: int, end: int) -> Piece:
    """Writes the answers of a piece. Raises DatasetInvalid."""
    with refusals():
        answer = model.answer(given.part(first, end))
    return pieces.write(folder, first, end, answer)


def _sizes(model: TrainedModel, given: Given, weights: int) -> Sequence[float]:
    """What part of the largest piece each sequence is."""
    steps = given.lengths if given.texts is None else np.array([len(text) for text in given.texts], np.int64)
    by_step = max(weights / MOST_WORK, max(1, len(given.columns)) / MOST_NUMBERS)
    outputs = int(model.card["output_size"]) * (steps if model.task == "tagging" else 1)
    sizes: Sequence[float] = np.maximum(steps * by_step, outputs / MOST_NUMBERS)
    return sizes


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
