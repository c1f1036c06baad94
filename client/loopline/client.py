"""The Client, which sends requests to one service."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

import httpx

from loopline import asking, many, uploading
from loopline import spec as specs
from loopline.batch import Batch
from loopline.errors import BadRequest, NotFound, ServiceError
from loopline.http import Http
from loopline.job import Job
from loopline.models import Models
from loopline.schedules import Schedules
from loopline.search import Search
from loopline.types import (
    Dataset,
    Delivery,
    DryRun,
    Health,
    Identity,
    InboxFile,
    Key,
    Prediction,
    Preset,
    SearchDryRun,
    Webhook,
    Worker,
)

Spec = Mapping[str, Any] | str | Path | specs.SpecFile
"""A mapping, the path of a YAML or JSON file, or a SpecFile."""

DEFAULT_URL = "http://127.0.0.1:8080"
RESUMED_BYTES = 8 << 20
"""A larger file is sent so that an interrupted upload can be continued."""
CHECK_SECONDS = 600.0
"""How much longer than other answers that to an upload may take: an older service answers after the check."""
PAGE = 100


class Client:
    """A client of one Loopline service.

        with Client() as client:
            job = client.submit("job.yaml").wait()
            job.download("model")

    base_url: the URL of the service. The default is $LOOPLINE_URL, else http://127.0.0.1:8080.
    api_key: the API key. The default is the content of the file api_key_file or $LOOPLINE_API_KEY_FILE, else
        $LOOPLINE_API_KEY, else no key.
    timeout: seconds that one answer may take.
    retry_seconds: how long a request is retried if the connection breaks or the service is unavailable.
    Threads may share a client. Every method raises ServiceUnreachable if nothing answers.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        api_key_file: str | Path | None = None,
        timeout: float = 30.0,
        retry_seconds: float = 15.0,
    ) -> None:
        self.base_url = (base_url or os.environ.get("LOOPLINE_URL") or DEFAULT_URL).rstrip("/")
        self._api_key = _api_key(api_key, api_key_file)
        self._http = Http(self.base_url, self._api_key, timeout=timeout, retry_seconds=retry_seconds)

    def __repr__(self) -> str:
        key = f"{self._api_key[:4]}..." if self._api_key and len(self._api_key) > 12 else "..."
        return f"Client({self.base_url!r}{f', api_key={key!r}' if self._api_key else ''})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. A closed client cannot be used again."""
        self._http.close()

    @property
    def retry_seconds(self) -> float:
        """How long a request is retried if the connection breaks or the service is unavailable, in seconds."""
        return self._http.retry_seconds

    @retry_seconds.setter
    def retry_seconds(self, seconds: float) -> None:
        self._http.retry_seconds = seconds

    def submit(self, spec: Spec, *, idempotency_key: str | None = None) -> Job:
        """Submits a job. The spec is a mapping, or the path of a YAML or JSON file, which is sent unchanged.

        If the spec's `data.dataset` is the path of a file (relative to the folder of the spec), the file is uploaded
        first, and the spec that is sent has the name of the data set instead. Two calls with the same
        `idempotency_key` return the same job. Without this argument each call gets its own key, so a retry after a
        broken connection does not create a second job. The service checks the spec before a file is uploaded.
        Raises BadRequest with every problem of the spec.
        """
        document = _read(spec)
        self._check_before_upload("/v1/jobs", document, [document])
        with self.uploads_for_job() as uploaded:
            response = self._submitted("/v1/jobs", self._readied(document, uploaded), idempotency_key)
        return Job.of(self._http.object_in(response), self._http)

    def rerun(
        self, job: Job, changes: Mapping[str, str] | None = None, *, tags: Mapping[str, str] | None = None
    ) -> Job:
        """Submits the spec of a job once more, with the same version of its data set and every default as it was then.

        A trial of a search is tested this time, although the search sets the test part aside. changes: fields to
        change, such as {"training.epochs": "50"}; a value is read as YAML. tags: added to its tags.
        Raises BadRequest, such as when the data set was deleted.
        """
        tagged, is_trial = {**job.tags, **(tags or {})}, job.trial is not None
        return self.submit(specs.again(job.spec, job.dataset_id, changes or {}, tagged, is_trial=is_trial))

    def submit_batch(
        self,
        spec: Spec | Sequence[Spec],
        *,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> Batch:
        """Submits several jobs, all of them or none, as a list of specs or as one spec with a `matrix`.

        Each spec is given as in `submit`. name: the name of the batch; default: the name of the spec with the matrix.
        Raises BadRequest with every problem of every job.
        """
        documents = _several(spec)
        if any(map(specs.local_files, documents)):
            self._check_before_upload("/v1/batches", _together(spec, documents, name), documents)
        with self.uploads_for_job() as uploaded:
            documents = [self._readied(each, uploaded) for each in documents]
            response = self._submitted("/v1/batches", _together(spec, documents, name), idempotency_key)
        replayed = response.headers.get("Idempotency-Replayed") == "true"
        return Batch.of(self._http.object_in(response), self._http, replayed=replayed)

    def dry_run(self, spec: Spec) -> DryRun:
        """What `submit` would do: checks the spec and says what the job would be. Nothing is uploaded or stored.

        If `data.dataset` is the path of a file, the spec is checked without it. Raises BadRequest with every problem;
        ServiceError with status 405 if the service is of an older version, which has no dry runs.
        """
        return DryRun.of(self._http.object_in(self._tried("/v1/jobs", _read(spec))))

    def dry_run_batch(self, spec: Spec | Sequence[Spec], *, name: str | None = None) -> list[DryRun]:
        """The same for the jobs of `submit_batch`, in their order."""
        answer = self._http.object_in(self._tried("/v1/batches", _together(spec, _several(spec), name)))
        listed = answer.get("data")
        return [DryRun.of(document) for document in listed] if isinstance(listed, list) else []

    def dry_run_search(self, spec: Spec) -> SearchDryRun:
        """The same for `submit_search`. The data set must be there: a path of a file is rejected."""
        return SearchDryRun.of(self._http.object_in(self._tried("/v1/searches", _read(spec))))

    def _tried(self, path: str, document: specs.SpecFile) -> httpx.Response:
        # `?dry_run=true` would do the same, but an older service ignores it and submits the job.
        headers = {"Content-Type": document.media_type}
        try:
            return self._http.send("POST", f"{path}/dry-run", headers=headers, body=document.text.encode())
        except BadRequest as error:
            if error.status != HTTPStatus.METHOD_NOT_ALLOWED:
                raise
            older = f"The service at {self.base_url} is of an older version, which has no dry runs."
            raise ServiceError(older, status=error.status) from None

    def _check_before_upload(self, path: str, document: specs.SpecFile, documents: Sequence[specs.SpecFile]) -> None:
        """If a file is to be uploaded for it, has the service check the document first. Raises BadRequest."""
        if not any(map(specs.local_files, documents)):
            return
        try:
            self._tried(path, document)
        except ServiceError as error:
            if error.status != HTTPStatus.METHOD_NOT_ALLOWED:
                raise

    def batch(self, batch_id: str) -> Batch:
        """The batch with this id, with its jobs. Raises NotFound."""
        return Batch.of(self._http.get_object(f"/v1/batches/{quote(batch_id, safe='')}"), self._http)

    def batches(self, *, page_size: int = PAGE) -> Iterator[Batch]:
        """Iterates over all batches, newest first, without their jobs. Pages are requested as needed."""
        return (Batch.of(document, self._http) for document in self._http.pages("/v1/batches", {"limit": page_size}))

    def submit_search(self, spec: Spec, *, idempotency_key: str | None = None) -> Search:
        """Submits a search for the best values of some fields: a spec with a `search`, given as in `submit`.

        Raises BadRequest with every problem.
        """
        with self.uploads_for_job() as uploaded:
            response = self._submitted("/v1/searches", self._readied(_read(spec), uploaded), idempotency_key)
        replayed = response.headers.get("Idempotency-Replayed") == "true"
        return Search.of(self._http.object_in(response), self._http, replayed=replayed)

    def search(self, search_id: str) -> Search:
        """The search with this id, with its trials. Raises NotFound."""
        return Search.of(self._http.get_object(f"/v1/searches/{quote(search_id, safe='')}"), self._http)

    def searches(self, *, page_size: int = PAGE) -> Iterator[Search]:
        """Iterates over all searches, newest first, without their trials. Pages are requested as needed."""
        return (Search.of(document, self._http) for document in self._http.pages("/v1/searches", {"limit": page_size}))

    @contextmanager
    def uploads_for_job(
        self, on_withdrawn: Callable[[Dataset], object] = lambda dataset: None
    ) -> Iterator[list[Dataset]]:
        """For the data sets that are uploaded for a job. If the job is refused, the new ones are deleted again."""
        uploaded: list[Dataset] = []
        try:
            yield uploaded
        except BadRequest:
            for dataset in uploading.withdraw(self._http, uploaded):
                on_withdrawn(dataset)
            raise

    def _readied(self, document: specs.SpecFile, uploaded: list[Dataset]) -> specs.SpecFile:
        def upload(path: Path, schema: Mapping[str, Any]) -> str:
            uploaded.append(self.upload(path, schema=schema))
            return uploaded[-1].reference

        return specs.with_local_dataset(document, upload)

    def _submitted(self, path: str, document: specs.SpecFile, idempotency_key: str | None) -> httpx.Response:
        key = idempotency_key or str(uuid4())
        if not _is_header(key):
            raise BadRequest("An idempotency key is made of printable ASCII characters.")
        headers = {"Content-Type": document.media_type, "Idempotency-Key": key}
        return self._http.send("POST", path, headers=headers, body=document.text.encode())

    def get(self, job_id: str) -> Job:
        """The job with this id. Raises NotFound."""
        return Job.of(self._http.get_object(f"/v1/jobs/{quote(job_id, safe='')}"), self._http)

    def job(self, job_id: str) -> Job:
        """The job with this id; `last` is the newest one, as for the command. Raises NotFound."""
        return self.last() if job_id == "last" else self.get(job_id)

    def jobs(
        self,
        *,
        kind: str | None = None,
        status: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        dataset: str | None = None,
        full: bool = False,
        page_size: int = PAGE,
    ) -> Iterator[Job]:
        """Iterates over the jobs that match, newest first. Pages are requested as needed. tag: `key:value`.

        kind: `train` or `predict`.
        dataset: the id of a version of a data set.
        full: include the specs. Without it `spec` is empty until `refresh()`, which is faster for the service.
        """
        filters = {"kind": kind, "status": status, "queue": queue, "tag": tag, "name": name, "dataset": dataset}
        params = {**filters, "limit": page_size}
        if full:
            params["full"] = "true"
        return (Job.of(document, self._http) for document in self._http.pages("/v1/jobs", params))

    def last(self) -> Job:
        """The newest job. Raises NotFound when there is none."""
        for job in self.jobs(page_size=1, full=True):
            return job
        raise NotFound("There are no jobs yet.")

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

    def datasets(self, *, page_size: int = PAGE) -> Iterator[Dataset]:
        """Every version of every data set, newest first."""
        return (Dataset.of(document) for document in self._http.pages("/v1/datasets", {"limit": page_size}))

    def dataset(self, reference: str) -> Dataset:
        """The data set with this id or name (`vowels`, `vowels@3`, `vowels@latest`). Raises NotFound."""
        return Dataset.of(self._http.get_object(f"/v1/datasets/{quote(reference, safe='@')}"))

    def inbox(self) -> Iterator[InboxFile]:
        """The files in the service's inbox and their data sets or errors, newest first."""
        return (InboxFile.of(document) for document in self._http.pages("/v1/inbox", {}))

    def delete_dataset(self, reference: str) -> Dataset:
        """Deletes one version of a data set and returns it. Give an id, `vowels@3`, or a name with only one version.

        Raises NotFound; Conflict while a job that has not ended uses it; BadRequest if the name has several versions.
        """
        found = self.dataset(reference)
        with suppress(NotFound):  # gone already: the answer to a first try was lost on the way
            self._http.send("DELETE", f"/v1/datasets/{quote(reference, safe='@')}")
        return found

    @property
    def models(self) -> Models:
        """The registry: `client.models.promote("vowels@3")`."""
        return Models(self._http)

    def predict(
        self,
        model: str,
        x: Any,
        *,
        static: Any = None,
        future: Any = None,
        ids: Sequence[str | int] | None = None,
        end: Any = None,
    ) -> Prediction:
        """Asks a model, which the service runs. model: `vowels@production`, `vowels@3`, or the id of a job; `vowels`
        alone means `vowels@production`.

        x: an array (steps, features) or (sequences, steps, features), or a list of arrays (steps, features), where NaN
        is a missing value; a text or texts; rows, each a dict with the columns of the data set; or the Path or the
        bytes of a CSV. A text alone that is the name of a file is refused.
        static, future, ids, end: as for `loopline.load`.
        Raises BadRequest if the model cannot take this, and NotFound if there is no such model.
        """
        media_type, body = asking.body_of(x, {"static": static, "future": future, "ids": ids, "end": asking.times(end)})
        headers = {"Content-Type": media_type}
        response = self._http.send("POST", asking.path_of(model), headers=headers, body=body)
        return Prediction.of(self._http.object_in(response))

    def predict_many(
        self,
        model: str,
        data: Any,
        *,
        format: many.Format = "parquet",
        on_bytes: uploading.OnBytes | None = None,
        on_withdrawn: Callable[[Dataset], object] = lambda dataset: None,
        **more: Any,
    ) -> Job:
        """Has a model answer all sequences of a file, as a job: `client.predict_many(model, file).wait()` and then
        `save_answers(path)`. model: as for `predict`.

        data: as for `upload`; it needs nothing to predict. It is uploaded as a data set that stays; if the job is
        refused, a new one is deleted again, and `on_withdrawn` is called with it.
        format: of the answers, `parquet` or `csv`.
        more: other fields of the job, such as `queue`, `priority` and `tags`.
        The same call again within a day returns the same job, unless that has failed or was cancelled.
        Raises BadRequest if the model cannot answer this, and NotFound if there is no such model.
        """

        with self.uploads_for_job(on_withdrawn) as uploaded:

            def upload(file: Path, name: str, on_bytes: uploading.OnBytes | None) -> Dataset:
                uploaded.append(self._uploaded(file, name, {}, on_bytes, raw=True))
                return uploaded[-1]

            return many.submitted(self._http, upload, model, data, format, on_bytes, more)

    @property
    def schedules(self) -> Schedules:
        """The schedules: `client.schedules.set("nightly.yaml")`."""
        return Schedules(self._http)

    def workers(self) -> list[Worker]:
        """The workers that sent a heartbeat within the last minute."""
        return [Worker.of(document) for document in self._http.pages("/v1/workers", {}, key="name")]

    def whoami(self) -> Identity:
        """The tenant of this client, the scopes of its key, and how much of each quota is used."""
        return Identity.of(self._http.get_object("/v1/whoami"))

    def keys(self, *, page_size: int = PAGE) -> Iterator[Key]:
        """All API keys of the tenant, newest first, including revoked ones. Needs a key with the scope `admin`."""
        return (Key.of(document) for document in self._http.pages("/v1/keys", {"limit": page_size}))

    def create_key(self, scopes: Iterable[str], *, name: str | None = None, expires_days: float | None = None) -> Key:
        """Creates an API key of the tenant. `key.key` is the key itself; it cannot be read again.

        scopes: any of `read`, `submit` and `admin`. If the connection breaks, this is not retried, because the first
        request may have created a key that nobody saw.
        """
        wanted = {"scopes": [*scopes], "name": name, "expires_days": expires_days}
        body = json.dumps(wanted).encode()
        headers = {"Content-Type": "application/json"}
        return Key.of(self._http.object_in(self._http.send("POST", "/v1/keys", headers=headers, body=body, once=True)))

    def revoke_key(self, key_id: str) -> Key:
        """Revokes an API key of the tenant and returns it. It stops working within a few seconds. Raises NotFound."""
        return Key.of(self._http.object_in(self._http.send("DELETE", f"/v1/keys/{quote(key_id, safe='')}")))

    def webhooks(self, *, page_size: int = PAGE) -> Iterator[Webhook]:
        """All webhooks of the tenant, newest first. Every method for webhooks needs a key with the scope `admin`."""
        return (Webhook.of(document) for document in self._http.pages("/v1/webhooks", {"limit": page_size}))

    def webhook(self, webhook_id: str) -> Webhook:
        """The webhook with this id. Raises NotFound."""
        return Webhook.of(self._http.get_object(_webhook(webhook_id)))

    def create_webhook(
        self,
        url: str,
        *,
        events: Iterable[str] | None = None,
        only: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Webhook:
        """Creates a webhook. `webhook.secret` verifies its messages; it cannot be read again.

        events: such as `job.failed`. The default is the three ends of a job; with `only`, the end of that subject.
        only: the id of one job, batch, search or schedule. Raises Conflict if it has ended already.
        tags: send messages only about jobs that have all these tags.
        If the connection breaks, this is not retried, as in `create_key`.
        """
        given = {"url": url, "only": only, "tags": dict(tags or {}), "events": list(events or ())}
        body = json.dumps({key: value for key, value in given.items() if value}).encode()
        headers = {"Content-Type": "application/json"}
        made = self._http.send("POST", "/v1/webhooks", headers=headers, body=body, once=True)
        return Webhook.of(self._http.object_in(made))

    def delete_webhook(self, webhook_id: str) -> None:
        """Deletes a webhook, its unsent messages and its log. Raises NotFound."""
        self.webhook(webhook_id)
        with suppress(NotFound):  # gone already: the answer to a first try was lost on the way
            self._http.send("DELETE", _webhook(webhook_id))

    def rotate_webhook(self, webhook_id: str) -> Webhook:
        """Gives the webhook a new `secret`, which cannot be read again. The old secret also signs until
        `old_secret_until`. Raises NotFound. If the connection breaks, this is not retried."""
        rotated = self._http.send("POST", f"{_webhook(webhook_id)}/rotate", once=True)
        return Webhook.of(self._http.object_in(rotated))

    def test_webhook(self, webhook_id: str) -> Delivery:
        """Sends a test message at once. `state` and `last_error` have the result. Raises NotFound."""
        path = f"{_webhook(webhook_id)}/test"
        return Delivery.of(self._http.object_in(self._http.send("POST", path, once=True)))

    def deliveries(self, webhook_id: str, *, page_size: int = PAGE) -> Iterator[Delivery]:
        """All messages of a webhook from the last 30 days, newest first. Raises NotFound."""
        pages = self._http.pages(f"{_webhook(webhook_id)}/deliveries", {"limit": page_size})
        return (Delivery.of(document) for document in pages)

    def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Sends a message again, with the same id. Raises NotFound; Conflict while the webhook is disabled."""
        path = f"{_webhook(webhook_id)}/deliveries/{quote(delivery_id, safe='')}/redeliver"
        return Delivery.of(self._http.object_in(self._http.send("POST", path)))

    def presets(self) -> list[Preset]:
        """The named architectures that a spec can use as its base."""
        return [Preset.of(document) for document in self._http.pages("/v1/presets", {}, key="name")]

    def health(self) -> Health:
        """Whether the service can accept jobs. Raises ServiceUnreachable if nothing answers."""
        return Health.of(self._http.object_in(self._http.send("GET", "/v1/health/ready", expected=503)))


def _read(spec: Spec) -> specs.SpecFile:
    return copy.copy(spec) if isinstance(spec, specs.SpecFile) else specs.read(spec)


def _several(spec: Spec | Sequence[Spec]) -> list[specs.SpecFile]:
    is_one = isinstance(spec, Mapping | str | Path | specs.SpecFile)
    return [_read(spec)] if is_one else [_read(each) for each in spec]  # type: ignore[arg-type, union-attr]


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


def _webhook(webhook_id: str) -> str:
    return f"/v1/webhooks/{quote(webhook_id, safe='')}"


def _api_key(given: str | None, file: str | Path | None) -> str | None:
    """The key from the first source that has one. Raises BadRequest if it is not a valid key or the file is missing."""
    file = file or os.environ.get("LOOPLINE_API_KEY_FILE")
    if file and not given:
        try:
            given = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise BadRequest(f"Cannot read the API key from {file}: {reason}.") from None
    key = (given or os.environ.get("LOOPLINE_API_KEY") or "").strip() or None
    if key and not _is_header(key):
        raise BadRequest(f"The API key holds characters that no key has; look at {file or 'LOOPLINE_API_KEY'}.")
    return key


def _is_header(text: str) -> bool:
    return text.isascii() and text.isprintable()
