"""Sends specs: what submitting a job, a batch and a search have in common."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from loopline import spec as specs
from loopline.datasets import Datasets
from loopline.errors import BadRequest, ServiceError
from loopline.http import Http, is_header
from loopline.types import Dataset

Spec = Mapping[str, Any] | str | Path | specs.SpecFile
"""A mapping, the path of a YAML or JSON file, or a SpecFile."""


def sent(http: Http, path: str, document: specs.SpecFile, idempotency_key: str | None) -> httpx.Response:
    """Submits a document. Raises BadRequest with every problem."""
    key = idempotency_key or str(uuid4())
    if not is_header(key):
        raise BadRequest("An idempotency key is made of printable ASCII characters.")
    headers = {"Content-Type": document.media_type, "Idempotency-Key": key}
    return http.send("POST", path, headers=headers, body=document.text.encode())


def is_replayed(response: httpx.Response) -> bool:
    """Whether what was submitted existed already: the idempotency key was used before."""
    return bool(response.headers.get("Idempotency-Replayed") == "true")


def tried(http: Http, path: str, document: specs.SpecFile) -> httpx.Response:
    """The dry run of a document. Raises BadRequest with every problem."""
    # `?dry_run=true` would do the same, but an older service ignores it and submits the job.
    headers = {"Content-Type": document.media_type}
    try:
        return http.send("POST", f"{path}/dry-run", headers=headers, body=document.text.encode())
    except BadRequest as error:
        if error.status != HTTPStatus.METHOD_NOT_ALLOWED:
            raise
        older = f"The service at {http.base_url} is of an older version, which has no dry runs."
        raise ServiceError(older, status=error.status) from None


def check_before_upload(http: Http, path: str, document: specs.SpecFile, documents: Sequence[specs.SpecFile]) -> None:
    """If a file is to be uploaded for it, has the service check the document first. Raises BadRequest."""
    if not any(map(specs.local_files, documents)):
        return
    try:
        tried(http, path, document)
    except ServiceError as error:
        if error.status != HTTPStatus.METHOD_NOT_ALLOWED:
            raise


def readied(datasets: Datasets, document: specs.SpecFile, uploaded: list[Dataset]) -> specs.SpecFile:
    """The document with the name of a data set in the place of a file, which is uploaded."""

    def upload(path: Path, schema: Mapping[str, Any]) -> str:
        uploaded.append(datasets.upload(path, schema=schema))
        return uploaded[-1].reference

    return specs.with_local_dataset(document, upload)


def read(spec: Spec) -> specs.SpecFile:
    return copy.copy(spec) if isinstance(spec, specs.SpecFile) else specs.read(spec)
