"""Sends a large file in as many requests as it takes: after a broken connection it continues where it was.

Also waits for the end of a check that has not ended when the service answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from loopline.errors import BadRequest, Conflict, LooplineError, Problem, ServiceError, ServiceUnreachable
from loopline.http import Http
from loopline.types import Dataset

CHUNK_BYTES = 1 << 18
PAUSE_SECONDS = 0.2

FIRST_WAIT_SECONDS, LAST_WAIT_SECONDS = 0.5, 5.0
"""Between two questions whether a check has ended."""
TICK_SECONDS = 1.0

OnBytes = Callable[[int, int], None]
OnCheck = Callable[[Dataset, float], None]


def content(file: Path, offset: int, size: int, on_bytes: OnBytes | None) -> Iterator[bytes]:
    """The bytes of a file from an offset on. `on_bytes` is called with the bytes sent so far and the total."""
    with file.open("rb") as source:
        source.seek(offset)
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
            offset += len(chunk)
            if on_bytes:
                on_bytes(offset, size)


def send(http: Http, file: Path, size: int, on_bytes: OnBytes | None) -> str:
    """Sends a file and returns the id of the upload. It gives up when nothing has arrived for `http.retry_seconds`.

    Raises ServiceUnreachable, BadRequest, TooLarge.
    """
    begun = http.object_in(http.send("POST", "/v1/uploads", params={"bytes": size}))
    upload, offset = str(begun["id"]), 0
    deadline = time.monotonic() + http.retry_seconds
    while offset < size:
        try:
            answer = http.send(
                "PUT",
                f"/v1/uploads/{upload}",
                params={"offset": offset},
                headers={"Content-Type": "application/octet-stream", "Content-Length": str(size - offset)},
                body=lambda start=offset: content(file, start, size, on_bytes),
                once=True,
            )
            arrived = _offset(http.object_in(answer))
        except (ServiceUnreachable, Conflict):  # a conflict: the broken request has not ended there
            if time.monotonic() >= deadline:
                raise
            http.sleep(PAUSE_SECONDS)
            arrived = _offset(http.get_object(f"/v1/uploads/{upload}"))
        if arrived > offset:
            deadline = time.monotonic() + http.retry_seconds
        offset = arrived
    return upload


def _offset(document: object) -> int:
    found = document.get("offset") if isinstance(document, dict) else None
    if not isinstance(found, int):
        raise ServiceError("The service does not say how much of the upload has arrived.")
    return found


def checked(http: Http, dataset: Dataset, on_check: OnCheck | None) -> Dataset:
    """The data set when its check has ended. `on_check` is called every second meanwhile, with the data set and the
    seconds of waiting so far.

    Raises BadRequest, with every problem, if it was rejected; NotFound if it was deleted.
    """
    began_at, wait_seconds = time.monotonic(), FIRST_WAIT_SECONDS
    while dataset.status == "validating":
        ask_at = time.monotonic() + wait_seconds
        while (left := ask_at - time.monotonic()) > 0:
            if on_check:
                on_check(dataset, time.monotonic() - began_at)
            http.sleep(min(left, TICK_SECONDS))
        wait_seconds = min(1.5 * wait_seconds, LAST_WAIT_SECONDS)
        now = Dataset.of(http.get_object(f"/v1/datasets/{quote(dataset.id, safe='')}"))
        dataset = replace(now, is_new=dataset.is_new and now.id == dataset.id)  # another id: that had the same content
    if dataset.status == "rejected":
        problems = [Problem(str(each.get("pointer") or ""), str(each.get("detail") or "")) for each in dataset.problems]
        message = dataset.message or f"The data set {dataset.reference} was rejected."
        raise BadRequest(message, status=422, code="dataset_invalid", problems=problems)
    return dataset


def withdraw(http: Http, datasets: Sequence[Dataset]) -> list[Dataset]:
    """Deletes the data sets that were uploaded for a job which was then refused: what a wrong spec says of the columns
    would hold for later versions too. Returns those that are gone."""
    gone = []
    for dataset in datasets:
        if dataset.is_new:
            with suppress(LooplineError):  # the error of the job matters more
                http.send("DELETE", f"/v1/datasets/{quote(dataset.id, safe='')}")
                gone.append(dataset)
    return gone
