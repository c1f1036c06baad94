"""Keeps the models that were asked last in memory, within bounds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Model = TypeVar("Model")


@dataclass(frozen=True)
class _Kept(Generic[Model]):
    bytes: int
    model: Future[Model] = field(default_factory=Future)


class Cache(Generic[Model]):
    """At most so many models, and so many bytes of files; but always the last one, however large. Requests for a model
    that is being loaded wait for it, so it is loaded once. For many threads."""

    def __init__(self, most_models: int, most_bytes: int) -> None:
        self.most_models, self.most_bytes = most_models, most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, _Kept[Model]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Of the files of all models that are kept."""
        return self._bytes

    def get(self, key: Hashable, size: Callable[[], int], load: Callable[[], Model]) -> Model:
        """The model of this key; `load` loads it if it is not here, and `size` says how many bytes its files have.

        Raises what `load` raises, to all who wait for it.
        """
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
        if kept is not None:
            return kept.model.result()
        mine: _Kept[Model] = _Kept(size())
        with self._lock:
            kept = self._kept.setdefault(key, mine)
            if kept is mine:
                self._bytes += mine.bytes
                self._make_room()
        return kept.model.result() if kept is not mine else self._loaded(key, mine, load)

    def _loaded(self, key: Hashable, mine: _Kept[Model], load: Callable[[], Model]) -> Model:
        try:
            found = load()
        except BaseException as error:
            with self._lock:
                if self._kept.get(key) is mine:
                    self._forget(key)
            mine.model.set_exception(error)
            raise
        mine.model.set_result(found)
        return found

    def _make_room(self) -> None:
        """Forget those that were not asked for the longest time, before the next one is loaded."""
        while len(self._kept) > 1 and (len(self._kept) > self.most_models or self._bytes > self.most_bytes):
            self._forget(next(iter(self._kept)))

    def _forget(self, key: Hashable) -> None:
        self._bytes -= self._kept.pop(key).bytes
