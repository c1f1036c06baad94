"""The registry: models, their versions, and the aliases that point at versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loopline import download, listing
from loopline.errors import BadRequest, NotFound
from loopline.http import Http
from loopline.listing import Listing
from loopline.types import Model, ModelMove, ModelVersion

LATEST, PRODUCTION = "latest", "production"
_JSON = {"Content-Type": "application/json"}


class Models:
    """The methods of `client.models`. A version is given as `vowels@3`, `vowels@production` or `vowels@latest`; a name
    alone means the latest. Every method raises NotFound if the model, version or alias does not exist."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, page_size: int = listing.PAGE) -> Listing[Model]:
        """Every model, by name."""
        return listing.listed(self._http, "/v1/models", Model.of, key="name", page_size=page_size)

    def get(self, name: str) -> Model:
        """A model: its aliases, and its newest version."""
        return Model.of(self._http.get_object(_path(name)))

    def versions(self, name: str, *, page_size: int = listing.PAGE) -> Listing[ModelVersion]:
        """Every version of a model, newest first."""
        path = _path(name, "versions")
        return listing.listed(self._http, path, ModelVersion.of, key="version", page_size=page_size)

    def version(self, reference: str) -> ModelVersion:
        """One version, with its job, data, spec and metrics."""
        return ModelVersion.of(self._http.get_object(_version_path(reference)))

    def register(self, name: str, job_id: str, *, note: str | None = None) -> ModelVersion:
        """Registers the result of a job as the next version of a model. A registered job keeps its version.

        Raises Conflict unless the job has succeeded.
        """
        return self._sent("POST", _path(name, "versions"), {"job": job_id, "note": note})

    def promote(
        self, reference: str, *, alias: str = PRODUCTION, reason: str | None = None, expected: int | None = None
    ) -> ModelVersion:
        """Moves the alias to a version, and returns that version.

        expected: the version at which the alias must point now; 0 means none. Raises Conflict if it does not.
        """
        name, at, ref = reference.partition("@")
        if not at:
            raise BadRequest(f"Say which version to promote, such as {name}@3 or {name}@latest.")
        wanted = {"version": int(ref) if ref.isdecimal() else ref, "reason": reason, "expected": expected}
        return self._sent("PUT", _path(name, "aliases", alias), wanted)

    def rollback(
        self, name: str, *, alias: str = PRODUCTION, reason: str | None = None, expected: int | None = None
    ) -> ModelVersion:
        """Moves the alias back to the version before its last promotion, and returns that version.

        If the connection breaks, this is not retried, because it could go back twice. expected: as in `promote`.
        Raises Conflict if there is no version before.
        """
        wanted = {"reason": reason, "expected": expected}
        return self._sent("POST", _path(name, "aliases", alias, "rollback"), wanted, once=True)

    def demote(self, name: str, alias: str) -> ModelVersion:
        """Deletes the alias, and returns the version that it pointed at."""
        found = self.version(f"{name}@{alias}")
        with suppress(NotFound):  # gone already: the answer to a first try was lost on the way
            self._http.send("DELETE", _path(name, "aliases", alias))
        return found

    def history(self, name: str, *, page_size: int = listing.PAGE) -> Listing[ModelMove]:
        """Every move of the model's aliases, newest first."""
        return listing.listed(self._http, _path(name, "history"), ModelMove.of, page_size=page_size)

    def download(
        self, reference: str, folder: str | Path, *, on_bytes: Callable[[int, int | None], None] | None = None
    ) -> Sequence[Path]:
        """Writes a version (weights, its description and the history) into a folder; returns the files.

        on_bytes: called with the bytes received and the total. Raises DownloadFailed if the download is incomplete.
        """
        path = f"{_version_path(reference)}/download"
        return download.into(Path(folder), lambda target: self._http.download(path, target, on_bytes))

    def delete(self, reference: str) -> ModelVersion:
        """Deletes one version, given by its number, and returns it. Its job stays.

        Raises Conflict while an alias points at the version.
        """
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
