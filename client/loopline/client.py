"""The Client, which sends requests to one service."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loopline import asking, many, uploading
from loopline.batches import Batches
from loopline.datasets import Datasets
from loopline.errors import BadRequest
from loopline.http import Blocking, Http, Way, is_header
from loopline.job import Job
from loopline.jobs import Jobs
from loopline.keys import Keys
from loopline.models import Models
from loopline.schedules import Schedules
from loopline.searches import Searches
from loopline.submitting import Spec
from loopline.types import Dataset, Health, Identity, Prediction, Preset, Worker
from loopline.webhooks import Webhooks

DEFAULT_URL = "http://127.0.0.1:8080"


class Client:
    """A client of one Loopline service.

        with Client() as client:
            job = client.submit("job.yaml").wait()
            job.download("model")

    Methods are grouped by what they act on: `client.models.register`, `client.webhooks.create`. The most common ones
    are also on the client itself: `submit`, `job`, `upload`, `predict` and `predict_many`.

    base_url: the URL of the service. The default is $LOOPLINE_URL, else http://127.0.0.1:8080.
    api_key: the API key. The default is the content of the file api_key_file or $LOOPLINE_API_KEY_FILE, else
        $LOOPLINE_API_KEY, else no key.
    timeout: seconds that one answer may take.
    retry_seconds: how long a request is retried if the connection breaks or the service is unavailable.
    Threads may share a client. Every method raises ServiceUnreachable if nothing answers.
    """

    _way: Way = Blocking()

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
        self._http = Http(self.base_url, self._api_key, timeout=timeout, retry_seconds=retry_seconds, way=self._way)
        self.jobs = Jobs(self._http)
        self.batches = Batches(self._http)
        self.searches = Searches(self._http)
        self.datasets = Datasets(self._http)
        self.models = Models(self._http)
        self.schedules = Schedules(self._http)
        self.keys = Keys(self._http)
        self.webhooks = Webhooks(self._http)

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
        """Submits a job: the same as `client.jobs.submit`."""
        return self.jobs.submit(spec, idempotency_key=idempotency_key)

    def job(self, job_id: str) -> Job:
        """The job with this id; `last` is the newest one. The same as `client.jobs.get`. Raises NotFound."""
        return self.jobs.get(job_id)

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
        """Uploads a data set: the same as `client.datasets.upload`."""
        return self.datasets.upload(data, name, schema=schema, on_bytes=on_bytes, on_check=on_check, wait=wait, raw=raw)

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
        with self.datasets.uploads_for_job(on_withdrawn) as uploaded:

            def upload(file: Path, name: str, on_bytes: uploading.OnBytes | None) -> Dataset:
                uploaded.append(self.datasets.upload(file, name, on_bytes=on_bytes, wait=False, raw=True))
                return uploaded[-1]

            return many.submitted(self._http, upload, model, data, format, on_bytes, more)

    def workers(self) -> list[Worker]:
        """The workers that sent a heartbeat within the last minute."""
        return [Worker.of(document) for document in self._http.pages("/v1/workers", {}, key="name")]

    def whoami(self) -> Identity:
        """The tenant of this client, the scopes of its key, and how much of each quota is used."""
        return Identity.of(self._http.get_object("/v1/whoami"))

    def presets(self) -> list[Preset]:
        """The named architectures that a spec can use as its base."""
        return [Preset.of(document) for document in self._http.pages("/v1/presets", {}, key="name")]

    def health(self) -> Health:
        """Whether the service can accept jobs. Raises ServiceUnreachable if nothing answers."""
        return Health.of(self._http.object_in(self._http.send("GET", "/v1/health/ready", expected=503)))


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
    if key and not is_header(key):
        raise BadRequest(f"The API key holds characters that no key has; look at {file or 'LOOPLINE_API_KEY'}.")
    return key
