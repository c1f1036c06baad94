"""Answers what clients ask models, a few questions at a time."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from loopline.prediction.answers import Answer
from loopline.prediction.errors import ModelUnusable as FolderUnusable
from loopline.prediction.given import Given
from loopline.prediction.loading import TrainedModel, load

from services import metrics
from services.blobs import transfers
from services.blobs.objects import Changed
from services.blobs.storage import Storage
from services.errors import Busy, Invalid, ModelUnusable, NotFound, TooLarge
from services.prediction.asked import FEWER, MOST_SEQUENCES, MOST_STEPS, Asked, given_to, problems_of
from services.prediction.cache import Cache
from services.prediction.sources import Source
from services.settings import Settings

MOST_VALUES = 1_000_000
"""Numbers, or characters, of a request."""
MOST_OUTPUTS = 2_000_000
"""Numbers of an answer."""
MOST_HELD = 64_000_000
"""Numbers of all steps of a sequence at once, such as the channels of its words: 256 MB as float32."""
MOST_WORK = 100_000_000_000
"""Multiplications of a request: a few seconds of one core."""
MOST_PENDING = 24
"""Requests of a process that are being answered or wait for that. Each of them holds one of the server's threads."""
WAIT_SECONDS = 10.0
LOADS_AT_ONCE = 2
ONNX, WEIGHTS, DOCUMENT = "model.onnx", "model.safetensors", "model.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model in memory."""

    model: TrainedModel
    weights: int
    """How many numbers it has learnt."""


class Predictor:
    """The models that a process has loaded. Making one touches nothing. For many threads."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage, self._threads = storage, settings.prediction_threads
        self.cache: Cache[Loaded] = Cache(settings.prediction_models, settings.prediction_models_bytes)
        self._pending = threading.BoundedSemaphore(MOST_PENDING)
        self._running = threading.BoundedSemaphore(settings.predictions_at_once or max((os.cpu_count() or 1) // 2, 1))
        self._loading = threading.BoundedSemaphore(LOADS_AT_ONCE)

    def answer(self, source: Source, read: Callable[[], Asked]) -> Answer:
        """What the model says to what `read` gives, which is read when it is this request's turn.

        Raises:
            InputInvalid: the model cannot take this.
            TooLarge: it is too much for one request.
            Busy: too many predictions are under way.
            NotFound: the files of the model are gone.
            ModelUnusable: they are no model.
            StorageUnavailable: the object store cannot answer.
        """
        with _counted(), self._place():
            key, size = source.key, lambda: sum(file["bytes"] for file in _chosen(source))
            loaded = self.cache.get(key, size, lambda: self._load(source))
            with self._turn():
                began = time.perf_counter()
                asked = read()
                given = given_to(loaded.model, asked, self._storage)
                _check_amount(loaded, given)
                with problems_of(asked):
                    answer = loaded.model.answer(given)
                metrics.PREDICTION_SECONDS.observe(time.perf_counter() - began)
        return answer

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._pending.acquire(blocking=False):
            raise Busy("Too many predictions are under way; try again in a few seconds.")
        try:
            yield
        finally:
            self._pending.release()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._running.acquire(timeout=WAIT_SECONDS):
            raise Busy(
                f"The predictions before this one took more than {WAIT_SECONDS:g} s; try again in a few seconds."
            )
        try:
            yield
        finally:
            self._running.release()

    def _load(self, source: Source) -> Loaded:
        result = "failed"
        try:
            with self._loading, self._storage.work() as folder:
                model = self._opened(source, folder)
            result = "loaded"
        finally:
            metrics.MODEL_LOADS.inc(result=result)
            metrics.MODELS_LOADED.set(len(self.cache))
            metrics.MODELS_LOADED_BYTES.set(self.cache.bytes)
        return Loaded(model, max(_recorded(source, WEIGHTS)["bytes"] // 4, 1))

    def _opened(self, source: Source, folder: Path) -> TrainedModel:
        self._fetch(source, _chosen(source), folder)
        if (folder / ONNX).exists():
            try:
                return load(folder, "onnxruntime", threads=self._threads)
            except FolderUnusable as error:
                log.warning("%s: its %s cannot be used, numpy computes: %s", source.job_id, ONNX, error)
                self._fetch(source, [_recorded(source, WEIGHTS)], folder)
        try:
            return load(folder, "numpy")
        except FolderUnusable as error:
            raise ModelUnusable(f"The model of {source.job_id} cannot be used: {error}") from error

    def _fetch(self, source: Source, files: Sequence[Mapping[str, Any]], folder: Path) -> None:
        for file in files:
            try:
                transfers.copy(self._storage, source.job_id, file, folder / file["name"])
            except FileNotFoundError:
                raise NotFound(f"The file {file['name']} is recorded and no longer in the storage.") from None
            except Changed as error:
                raise ModelUnusable(f"The file {file['name']} of {source.job_id} is damaged in the storage.") from error


@contextmanager
def _counted() -> Iterator[None]:
    result = "failed"
    try:
        yield
        result = "answered"
    except Busy:
        result = "busy"
        raise
    except (Invalid, TooLarge):
        result = "refused"
        raise
    finally:
        metrics.PREDICTIONS.inc(result=result)


def _chosen(source: Source) -> list[dict[str, Any]]:
    """The files that are read to predict."""
    has_onnx = any(file["name"] == ONNX for file in source.files) and find_spec("onnxruntime") is not None
    return [_recorded(source, name) for name in (DOCUMENT, ONNX if has_onnx else WEIGHTS)]


def _recorded(source: Source, name: str) -> dict[str, Any]:
    found = next((file for file in source.files if file["name"] == name), None)
    if found is None:
        raise NotFound(f"The model of {source.job_id} has no {name}.")
    return found


def _check_amount(loaded: Loaded, given: Given) -> None:
    """Raises TooLarge, before anything is computed."""
    sizes = given.lengths if given.texts is None else np.array([len(text) for text in given.texts], np.int64)
    steps, unit = int(sizes.sum()), "steps" if given.texts is None else "characters"
    card = loaded.model.card
    outputs = int(card["output_size"]) * (steps if loaded.model.task == "tagging" else len(given))
    read = len(given) * int(card["forecast"]["lookback"]) if loaded.model.task == "forecast" else steps
    for what, amount, most in (
        ("sequences", len(given), MOST_SEQUENCES),
        (f"{unit} in its longest sequence", int(sizes.max()), MOST_STEPS),
        (f"{unit} and features", steps * max(1, len(given.columns)), MOST_VALUES),
        ("numbers in its answer", outputs, MOST_OUTPUTS),
        ("numbers within the network for its longest sequence", int(sizes.max()) * loaded.model.width, MOST_HELD),
        ("multiplications", read * loaded.weights, MOST_WORK),
    ):
        if amount > most:
            raise TooLarge(f"This request has {amount:,} {what}, and {most:,} are the most. {FEWER}")
