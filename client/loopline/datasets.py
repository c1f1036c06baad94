"""The data sets: uploading, listing and deleting them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loopline import listing, uploading
from loopline import spec as specs
from loopline.errors import BadRequest, NotFound
from loopline.http import Http
from loopline.listing import Listing
from loopline.types import Dataset, InboxFile

RESUMED_BYTES = 8 << 20
"""A larger file is sent so that an interrupted upload can be continued."""
CHECK_SECONDS = 600.0
"""How much longer than other answers that to an upload may take: an older service answers after the check."""

Uploaded = list[Dataset]


class Datasets:
    """The methods of `client.datasets`. A data set is given by its id, or as `vowels`, `vowels@3`, `vowels@latest`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, *, page_size: int = listing.PAGE) -> Listing[Dataset]:
        """Every version of every data set, newest first."""
        return listing.listed(self._http, "/v1/datasets", Dataset.of, page_size=page_size)

    def get(self, reference: str) -> Dataset:
        """The data set with this id or name. Raises NotFound."""
        return Dataset.of(self._http.get_object(f"/v1/datasets/{quote(reference, safe='@')}"))

    def upload(
        self,
        data: Any,
        name: str | None = None,
        *,
        schema: Mapping[str, Any] | None = None,
        on_bytes: uploading.OnBytes | None = None,
        on_check: uploading.OnCheck | None = None,
        wait: bool = True,
        raw: bool = False,
    ) -> Dataset:
        """Uploads a data set: the path of a file or of a folder of files, a table of pandas, polars or pyarrow, a numpy
        array, or a mapping with the arrays x, y, lengths and split.

        It is named after the file (`My Set.csv`: `my-set`) unless a name is given. Uploading the same content under the
        same name again returns the same data set.
        schema: which columns are what, such as `{"target": "label", "group": "id"}`; the rest is inferred.
        on_bytes: called with the bytes sent so far and the total.
        wait: wait for a check that takes longer than the service's answer, as `wait_for_check` does with `on_check`.
        Without it the data set may be `validating`; no job can use it until it is `ready`.
        raw: keep the file as it came, for jobs that predict. It needs no target, and no job can train on it.
        Raises BadRequest, which names the invalid rows.
        """
        dataset = self._uploaded(data, name, schema or {}, on_bytes, raw=raw)
        return self.wait_for_check(dataset, on_check=on_check) if wait else dataset

    def wait_for_check(self, dataset: Dataset, *, on_check: uploading.OnCheck | None = None) -> Dataset:
        """Waits until the service has checked a data set, and returns it as it is then.

        on_check: called every second with the data set and the seconds of waiting so far.
        Raises BadRequest with every problem if the data set was rejected, as `upload` does; NotFound if it was deleted.
        """
        return uploading.checked(self._http, dataset, on_check)

    def delete(self, reference: str) -> Dataset:
        """Deletes one version of a data set and returns it. Give an id, `vowels@3`, or a name with only one version.

        Raises NotFound; Conflict while a job that has not ended uses it; BadRequest if the name has several versions.
        """
        found = self.get(reference)
        with suppress(NotFound):  # gone already: the answer to a first try was lost on the way
            self._http.send("DELETE", f"/v1/datasets/{quote(reference, safe='@')}")
        return found

    def inbox(self) -> Listing[InboxFile]:
        """The files in the service's inbox and their data sets or errors, newest first."""
        return listing.listed(self._http, "/v1/inbox", InboxFile.of)

    @contextmanager
    def uploads_for_job(self, on_withdrawn: Callable[[Dataset], object] = lambda dataset: None) -> Iterator[Uploaded]:
        """For the data sets that are uploaded for a job. If the job is refused, the new ones are deleted again."""
        uploaded: Uploaded = []
        try:
            yield uploaded
        except BadRequest:
            for dataset in uploading.withdraw(self._http, uploaded):
                on_withdrawn(dataset)
            raise

    def _uploaded(
        self,
        data: Any,
        name: str | None,
        schema: Mapping[str, Any],
        on_bytes: uploading.OnBytes | None,
        *,
        raw: bool = False,
    ) -> Dataset:
        columns = {field: value if isinstance(value, str) else json.dumps(value) for field, value in schema.items()}
        if raw:
            columns["raw"] = "true"
        if isinstance(data, str | Path) and not Path(data).is_dir():
            return self._sent(Path(data), name or specs.dataset_name(Path(data)), columns, on_bytes)
        if isinstance(data, str | Path):
            data = Path(data)
            name = name or specs.dataset_name(data)
        if name is None:
            raise BadRequest("A data set from memory needs a name: upload(data, name).")
        from loopline import frames

        with tempfile.TemporaryDirectory(prefix="loopline-") as folder:
            return self._sent(frames.as_file(data, Path(folder)), name, columns, on_bytes)

    def _sent(self, file: Path, name: str, columns: Mapping[str, str], on_bytes: uploading.OnBytes | None) -> Dataset:
        try:
            size = file.stat().st_size
            file.open("rb").close()
        except OSError as error:
            raise BadRequest(f"Cannot read {file}: {error.strerror}.") from None

        params: dict[str, Any] = {"name": name, "file": file.name[-200:], **columns}
        headers = {"Content-Type": "application/octet-stream"}
        if size <= RESUMED_BYTES:
            body: Callable[[], Iterator[bytes]] | None = lambda: uploading.content(file, 0, size, on_bytes)  # noqa: E731
            headers["Content-Length"] = str(size)
        else:
            params["upload"], body = uploading.send(self._http, file, size, on_bytes), None
        answer = self._http.send(
            "POST", "/v1/datasets", params=params, headers=headers, body=body, wait_seconds=CHECK_SECONDS
        )
        return replace(Dataset.of(self._http.object_in(answer)), is_new=answer.status_code != HTTPStatus.OK)
