"""The registry: models by name, their versions, and the aliases that point at them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loopline import download
from loopline.errors import BadRequest, NotFound
from loopline.http import Http
from loopline.types import Model, ModelMove, ModelVersion

LATEST, PRODUCTION = "latest", "production"
PAGE = 100
_JSON = {"Content-Type": "application/json"}


class Models:
    """What `client.models` is. A version is named `vowels@3`, `vowels@production` or `vowels@latest`; the name alone is
    the latest. Every method raises NotFound where there is no such model, version or alias."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, page_size: int = PAGE) -> Iterator[Model]:
        """Every model, by name."""
        return (Model.of(each) for each in self._http.pages("/v1/models", {"limit": page_size}, key="name"))

    def get(self, name: str) -> Model:
        """A model: its aliases, and its newest version."""
        return Model.of(self._http.get_object(_path(name)))

    def versions(self, name: str, *, page_size: int = PAGE) -> Iterator[ModelVersion]:
        """Every version of a model, newest first."""
        pages = self._http.pages(_path(name, "versions"), {"limit": page_size}, key="version")
        return (ModelVersion.of(each) for each in pages)

    def version(self, reference: str) -> ModelVersion:
        """One version, with its job, data, spec and metrics."""
        return ModelVersion.of(self._http.get_object(_version_path(reference)))

    def register(self, name: str, job_id: str, *, note: str | None = None) -> ModelVersion:
        """The result of a job as the next version of a model; a job that is one already stays that version.

        Raises Conflict unless the job has succeeded.
        """
        return self._sent("POST", _path(name, "versions"), {"job": job_id, "note": note})

    def promote(
        self, reference: str, *, alias: str = PRODUCTION, reason: str | None = None, expected: int | None = None
    ) -> ModelVersion:
        """Lets the alias point at a version, at once for everybody, and returns that.

        expected: do it only if the alias points at this version now, or at none for 0; else raises Conflict.
        """
        name, at, ref = reference.partition("@")
        if not at:
            raise BadRequest(f"Say which version to promote, such as {name}@3 or {name}@latest.")
        wanted = {"version": int(ref) if ref.isdecimal() else ref, "reason": reason, "expected": expected}
        return self._sent("PUT", _path(name, "aliases", alias), wanted)

    def rollback(
        self, name: str, *, alias: str = PRODUCTION, reason: str | None = None, expected: int | None = None
    ) -> ModelVersion:
        """Lets the alias point at the version that it was promoted from, and returns that.

        A connection that breaks is not tried again here: it might go back two. expected: as in `promote`.
        Raises Conflict where there is nothing before.
        """
        wanted = {"reason": reason, "expected": expected}
        return self._sent("POST", _path(name, "aliases", alias, "rollback"), wanted, once=True)

    def demote(self, name: str, alias: str) -> ModelVersion:
        """Takes the alias away from the version that it points at, and returns that."""
        found = self.version(f"{name}@{alias}")
        with suppress(NotFound):  # gone already: the answer to a first try was lost on the way
            self._http.send("DELETE", _path(name, "aliases", alias))
        return found

    def history(self, name: str, *, page_size: int = PAGE) -> Iterator[ModelMove]:
        """Every move of the model's aliases, newest first."""
        return (ModelMove.of(each) for each in self._http.pages(_path(name, "history"), {"limit": page_size}))

    def download(
        self, reference: str, folder: str | Path, *, on_bytes: Callable[[int, int | None], None] | None = None
    ) -> Sequence[Path]:
        """Writes a version (weights, its description and the history) into a folder; returns the files.

        on_bytes: called with the bytes come so far and in all. Raises DownloadFailed when what came is not whole.
        """
        path = f"{_version_path(reference)}/download"
        return download.into(Path(folder), lambda target: self._http.download(path, target, on_bytes))

    def delete(self, reference: str) -> ModelVersion:
        """Deletes one version, said by its number, and returns it; its job stays. Raises Conflict while an alias points
        at it."""
        found = self.version(reference)
        with suppress(NotFound):
            self._http.send("DELETE", _version_path(reference))
        return found

    def _sent(self, method: str, path: str, document: dict[str, Any], *, once: bool = False) -> ModelVersion:
        body = json.dumps(document).encode()
        response = self._http.send(method, path, headers=_JSON, body=body, once=once)
        return ModelVersion.of(self._http.object_in(response))


def _path(name: str, *below: str) -> str:
    return "/".join(["/v1/models", *(quote(part, safe="") for part in (name, *below))])


def _version_path(reference: str) -> str:
    name, _, ref = reference.partition("@")
    return _path(name, "versions", ref or LATEST)
