"""The searches for the best values of some fields."""

from __future__ import annotations

from urllib.parse import quote

from loopline import listing, submitting
from loopline.datasets import Datasets
from loopline.errors import NotFound
from loopline.http import Http
from loopline.jobs import LAST
from loopline.listing import Listing
from loopline.search import Search
from loopline.submitting import Spec
from loopline.types import Document, SearchDryRun

PATH = "/v1/searches"


class Searches:
    """The methods of `client.searches`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, page_size: int = listing.PAGE) -> Listing[Search]:
        """All searches, newest first, without their trials."""
        return listing.listed(self._http, PATH, self._read, page_size=page_size)

    def get(self, search_id: str) -> Search:
        """The search with this id, with its trials; `last` is the newest one. Raises NotFound."""
        if search_id != LAST:
            return self._read(self._http.get_object(f"{PATH}/{quote(search_id, safe='')}"))
        for found in self.list(page_size=1):
            return found.refresh()
        raise NotFound("There are no searches yet.")

    def submit(self, spec: Spec, *, idempotency_key: str | None = None) -> Search:
        """Submits a search for the best values of some fields: a spec with a `search`, given as in `client.submit`.

        Raises BadRequest with every problem.
        """
        datasets = Datasets(self._http)
        with datasets.uploads_for_job() as uploaded:
            ready = submitting.readied(datasets, submitting.read(spec), uploaded)
            response = submitting.sent(self._http, PATH, ready, idempotency_key)
        document = self._http.object_in(response)
        return Search.of(document, self._http, replayed=submitting.is_replayed(response))

    def dry_run(self, spec: Spec) -> SearchDryRun:
        """What `submit` would do, as `client.jobs.dry_run`. The data set must be there: a file is rejected."""
        return SearchDryRun.of(self._http.object_in(submitting.tried(self._http, PATH, submitting.read(spec))))

    def _read(self, document: Document) -> Search:
        return Search.of(document, self._http)
