"""A list of the service, such as its jobs: pages are requested as they are needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from loopline import notebook, tables
from loopline.http import Http, Params
from loopline.types import Document

PAGE = 100
SHOWN = 20
"""Entries that a prompt or a notebook shows."""

T = TypeVar("T")


class Listing(Sequence[T], Generic[T]):
    """A list of the service. It requests a page of it when that is needed, and keeps it: `jobs[0]` requests the first
    one, `len(jobs)` all of them. `to_frame()` makes a data frame of it. Threads may share it.

    entries: begins to read the list. If that fails, the next use of the list begins again."""

    def __init__(self, entries: Callable[[], Iterator[T]]) -> None:
        self._found: list[T] = []
        self._begin = entries
        self._more = entries()
        self._lock = threading.Lock()

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            is_forward = place.stop is not None and min(place.start or 0, place.stop) >= 0 and (place.step or 1) > 0
            return self._read(place.stop if is_forward else None)[place]
        return self._read(place + 1 if place >= 0 else None)[place]

    def __iter__(self) -> Iterator[T]:
        place = 0
        while place < len(found := self._read(place + 1)):
            yield found[place]
            place += 1

    def __len__(self) -> int:
        return len(self._read(None))

    def __bool__(self) -> bool:
        return bool(self._read(1))

    def _read(self, count: int | None) -> Sequence[T]:
        """Reads on until there are so many entries; None: all."""
        with self._lock:
            while count is None or len(self._found) < count:
                try:
                    self._found.append(next(self._more))
                except StopIteration:
                    break
                except BaseException:  # a generator that failed says that it is at its end
                    self._found, self._more = [], self._begin()
                    raise
            return self._found

    def to_frame(self, library: tables.Library | None = None) -> Any:
        """The list as a data frame: of pandas if it is installed, else of polars, else a list of dicts. `library`:
        `pandas`, `polars` or `rows` chooses one."""
        return tables.frame([tables.row(each) for each in self], library)

    def __repr__(self) -> str:
        shown = [repr(each) for each in self[:SHOWN]]
        more = ["..."] if len(self._read(SHOWN + 1)) > SHOWN else []
        return f"[{(chr(10) + ' ').join(f'{line},' for line in [*shown, *more]).removesuffix(',')}]"

    def _repr_html_(self) -> str:
        return notebook.rows([tables.row(each) for each in self[:SHOWN]], more=len(self._read(SHOWN + 1)) > SHOWN)


def listed(
    http: Http,
    path: str,
    read: Callable[[Document], T],
    *,
    key: str = "id",
    page_size: int = PAGE,
    params: Params | None = None,
) -> Listing[T]:
    """The list at a path. `key`: as for `Http.pages`."""
    wanted: Mapping[str, Any] = {"limit": page_size, **(params or {})}
    return Listing(lambda: (read(document) for document in http.pages(path, wanted, key=key)))
