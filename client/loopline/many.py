"""Has a model answer many sequences, as a job."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from loopline import frames
from loopline.asking import in_full
from loopline.errors import BadRequest, NotFound
from loopline.http import Http
from loopline.job import Job
from loopline.models import Models
from loopline.spec import dataset_name
from loopline.types import Dataset
from loopline.uploading import OnBytes

Format = Literal["csv", "parquet"]
LOST = ("failed", "cancelled")
"""States of an earlier job that is not continued."""
_BLOCK = 1 << 20

Upload = Callable[[Path, str, OnBytes | None], Dataset]


class InterruptedSubmission(KeyboardInterrupt):
    """Ctrl-C came while the service was asked for the job, so there may be one. The same call again returns it."""


def submitted(
    http: Http, upload: Upload, model: str, data: Any, wanted: Format, on_bytes: OnBytes | None, more: Mapping[str, Any]
) -> Job:
    """The job that answers, or an earlier one of the last day that does: of this content, version and format."""
    reference = in_full(model)
    if not reference.startswith("job_"):
        reference = Models(http).version(reference).reference
    with _file(data) as (file, name):
        sha256 = _sha256(file)
        dataset = _known(http, name, sha256) or upload(file, name, on_bytes)
    document = {"kind": "predict", "model": reference, "data": {"dataset": dataset.id}, "format": wanted, **more}
    try:
        return _not_lost(http, json.dumps(document))
    except KeyboardInterrupt:
        raise InterruptedSubmission from None


def _not_lost(http: Http, body: str) -> Job:
    """The job of this request. After a lost job comes the one whose key is made from the lost job's id."""
    asked = body
    while True:
        job = _posted(http, body.encode(), f"predict-{hashlib.sha256(asked.encode()).hexdigest()}")
        if job.status not in LOST:
            return job
        asked += json.dumps(job.id)


@contextmanager
def _file(data: Any) -> Iterator[tuple[Path, str]]:
    """What to upload, and the name of its data set. Raises BadRequest."""
    if isinstance(data, str | Path) and Path(data).is_file():
        yield Path(data), _name(Path(data))
        return
    if isinstance(data, str | Path) and not Path(data).exists():
        raise BadRequest(f"There is no file {data}.")
    with tempfile.TemporaryDirectory(prefix="loopline-") as folder:
        given = Path(data) if isinstance(data, str) else data
        yield frames.as_file(given, Path(folder)), _name(given) if isinstance(given, Path) else "table-raw"


def _name(path: Path) -> str:
    """Not that of a data set to train on."""
    return f"{dataset_name(path)[:90]}-raw"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as source:
            while block := source.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise BadRequest(f"Cannot read {file}: {error.strerror or error}.") from error
    return digest.hexdigest()


def _known(http: Http, name: str, sha256: str) -> Dataset | None:
    """The data set with this content, if an earlier call has uploaded it last."""
    try:
        found = Dataset.of(http.get_object(f"/v1/datasets/{name}"))
    except NotFound:
        return None
    return found if (found.status, found.sha256) == ("raw", sha256) else None


def _posted(http: Http, body: bytes, key: str) -> Job:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    return Job.of(http.object_in(http.send("POST", "/v1/jobs", headers=headers, body=body)), http)
