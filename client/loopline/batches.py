"""The batches: jobs that are submitted together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from loopline import listing, submitting
from loopline import spec as specs
from loopline.batch import Batch
from loopline.datasets import Datasets
from loopline.errors import NotFound
from loopline.http import Http
from loopline.jobs import LAST
from loopline.listing import Listing
from loopline.submitting import Spec
from loopline.types import Document, DryRun

PATH = "/v1/batches"


class Batches:
    """The methods of `client.batches`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, page_size: int = listing.PAGE) -> Listing[Batch]:
        """All batches, newest first, without their jobs."""
        return listing.listed(self._http, PATH, self._read, page_size=page_size)

    def get(self, batch_id: str) -> Batch:
        """The batch with this id, with its jobs; `last` is the newest one. Raises NotFound."""
        if batch_id != LAST:
            return self._read(self._http.get_object(f"{PATH}/{quote(batch_id, safe='')}"))
        for batch in self.list(page_size=1):
            return batch.refresh()
        raise NotFound("There are no batches yet.")

    def submit(
        self,
        spec: Spec | Sequence[Spec],
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Submits several jobs, all of them or none, as a list of specs or as one spec with a `matrix`.

        Each spec is given as in `client.submit`. name: of the batch; default: the name of the spec with the matrix.
        Raises BadRequest with every problem of every job.
        """
        documents, datasets = _several(spec), Datasets(self._http)
        submitting.check_before_upload(self._http, PATH, _together(spec, documents, name), documents)
        with datasets.uploads_for_job() as uploaded:
            documents = [submitting.readied(datasets, each, uploaded) for each in documents]
            response = submitting.sent(self._http, PATH, _together(spec, documents, name), idempotency_key)
        document = self._http.object_in(response)
        return Batch.of(document, self._http, replayed=submitting.is_replayed(response))

    def dry_run(self, spec: Spec | Sequence[Spec], *, name: str | None = None) -> Sequence[DryRun]:
        """What `submit` would do, as `client.jobs.dry_run`: what each job would be, in their order."""
        together = _together(spec, _several(spec), name)
        listed = self._http.object_in(submitting.tried(self._http, PATH, together)).get("data")
        return [DryRun.of(document) for document in listed] if isinstance(listed, Sequence) else []

    def _read(self, document: Document) -> Batch:
        return Batch.of(document, self._http)


def _several(spec: Spec | Sequence[Spec]) -> list[specs.SpecFile]:
    is_one = isinstance(spec, Mapping | str | Path | specs.SpecFile)
    return [submitting.read(spec)] if is_one else [submitting.read(each) for each in spec]  # type: ignore[arg-type, union-attr]


def _together(spec: Spec | Sequence[Spec], documents: Sequence[specs.SpecFile], name: str | None) -> specs.SpecFile:
    """The document of a batch: one spec as it is, or a list of them."""
    if not isinstance(spec, Mapping | str | Path | specs.SpecFile):
        return specs.together(documents, name)
    [document] = documents
    if name is not None and document.has_matrix():
        document = copy.copy(document)
        document.set(("name",), name, verbatim=True)
    elif name is not None:  # the job keeps its own
        document = specs.together([document], name)
    return document
