"""Carries out an order to predict: a model answers all sequences of a file, one piece after the other.

Each piece is a file of its own (`pieces.py`), which the supervisor registers like a checkpoint. An attempt keeps the
registered pieces up to the first one that is missing or damaged, and computes the rest. The cuts depend only on the
sequences and the model. So every attempt cuts them alike, and the result is the same however often the job was
interrupted.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from loopline.prediction.answers import Answer
from loopline.prediction.errors import ModelUnusable as Unusable
from loopline.prediction.given import Given
from loopline.prediction.loading import TrainedModel, load
from loopline.prediction.naming import Outcomes

from services.errors import ModelUnusable
from services.training import pieces
from services.training.files.fitting import named, refusals
from services.training.files.limited import limited
from services.training.memory import usage
from services.training.messages import (
    CheckpointSaved,
    DeviceMemory,
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
from services.training.pieces import Floats, Piece

ROLE = "predicts"
MOST_WORK = 1_000_000_000_000
"""Multiplications of a piece: about half a minute of one core. An interruption loses the work on one piece."""
MOST_NUMBERS = 4_000_000
"""Numbers of the answers of a piece."""
SIGN_SECONDS = 10.0
"""Seconds between two signs of life while a piece is computed."""
IN_FLIGHT = 3
"""Pieces that may wait to be registered."""
WAIT_SECONDS = 0.02

Stop = Callable[[], StopReason | None]


def events(
    order: Order, device: torch.device, stop: Stop = lambda: None, recorded: Callable[[], float] = lambda: math.inf
) -> Iterator[Event]:
    """Carries out one order and yields what happens. `stop` is asked before each batch of sequences and answers with
    a reason to end; `recorded` counts the pieces of this attempt that are in the database.

    Raises DatasetInvalid if the model cannot answer these sequences, ModelUnusable, CheckpointCorrupt, OSError.
    """
    model = _model(order, device)
    given = _given(model, order)
    folder, weights = Path(order.directory), _weights(order)
    made = pieces.unbroken(folder, order.pieces, model.task, len(given))
    before = made[-1].end if made else 0
    yield Started(
        epochs=1,
        steps_per_epoch=len(given),
        resumed_from=Place(0, before) if made else None,  # the supervisor forgets the pieces beyond
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
    for end in pieces.cut(*_sizes(model, given, weights), before):
        while len(made) - done - recorded() >= IN_FLIGHT and stop() is None:
            time.sleep(WAIT_SECONDS)
        first = made[-1].end if made else 0
        answer = yield from _answer(model, given.part(first, end), device, stop)
        if isinstance(answer, StopReason):
            yield Stopped(answer)
            return
        made.append(pieces.write(folder, first, end, answer))
        yield CheckpointSaved(0, end, False, (made[-1].file,))
    took = time.monotonic() - began
    wanted = order.spec["format"]
    file, rows = pieces.together(folder, made, wanted, model.task, len(given))
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
    """The warnings about the file, in the first attempt; and which piece of earlier attempts cannot be used."""
    if not order.pieces:
        for warning in given.warnings:
            yield Note("warning", "warning", warning, {})
    if len(made) < len(order.pieces):
        first = order.pieces[len(made)].name
        message = f"The piece {first} is damaged, missing or does not follow: its sequences are answered again."
        yield Log("warning", message)


def _answer(
    model: TrainedModel, part: Given, device: torch.device, stop: Stop
) -> Generator[Event, None, Answer | StopReason]:
    """The answer to the sequences of a piece, or why the job has to stop. Raises DatasetInvalid."""
    found: Outcomes = []
    computed, told = 0, time.monotonic()
    outcomes = model.outcomes(part)
    while computed < len(part):
        if (reason := stop()) is not None:
            return reason
        with refusals():
            found.append(next(outcomes))
        computed += len(found[-1][0])
        if time.monotonic() - told >= SIGN_SECONDS:
            told = time.monotonic()
            yield DeviceMemory(usage(device) or {})
    with refusals():
        return model.named(part, found)


def _sizes(model: TrainedModel, given: Given, weights: int) -> tuple[Floats, Floats]:
    """The `effort` and `memory` of `pieces.cut`: which share of a full piece each sequence has of the multiplications
    or of the numbers of the answers, whichever is more; and of these numbers alone, if each step has an answer."""
    steps = given.lengths if given.texts is None else np.array([len(text) for text in given.texts], np.int64)
    outputs = (
        int(model.card["output_size"]) / MOST_NUMBERS * (steps if model.task == "tagging" else np.ones(len(steps)))
    )
    effort: Floats = np.maximum(steps * (weights / MOST_WORK), outputs)
    return effort, outputs if model.task == "tagging" else np.zeros(len(steps))


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
    path, allowance = Path(order.data), order.allowance
    bounds = nullcontext() if allowance is None else limited(allowance.memory_bytes, allowance.file_bytes)
    with refusals(), bounds, tempfile.TemporaryDirectory(prefix="loopline-") as work:
        return model.read(named(path, order.ending, Path(work)))
