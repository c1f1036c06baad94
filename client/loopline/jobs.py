"""The jobs: submitting, listing and running them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from loopline import comparing, listing, submitting
from loopline import spec as specs
from loopline.batch import Batch
from loopline.comparing import Comparison
from loopline.datasets import Datasets
from loopline.errors import NotFound
from loopline.http import Http
from loopline.job import Job
from loopline.listing import Listing
from loopline.search import Search
from loopline.submitting import Spec
from loopline.types import Document, DryRun

PATH = "/v1/jobs"
LAST = "last"


class Jobs:
    """The methods of `client.jobs`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(
        self,
        *,
        kind: str | None = None,
        status: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        dataset: str | None = None,
        trials: bool = True,
        full: bool = False,
        page_size: int = listing.PAGE,
    ) -> Listing[Job]:
        """The jobs that match, newest first. kind: `train` or `predict`. tag: `key:value`.

        dataset: the id of a version of a data set.
        trials: include the trials of searches.
        full: include the specs. Without it `spec` is empty until `refresh()`, which is faster for the service.
        """
        filters = {"kind": kind, "status": status, "queue": queue, "tag": tag, "name": name, "dataset": dataset}
        params = {**filters, "full": "true" if full else None, "trials": None if trials else "false"}
        return listing.listed(self._http, PATH, self._read, page_size=page_size, params=params)

    def get(self, job_id: str) -> Job:
        """The job with this id; `last` is the newest one. Raises NotFound."""
        if job_id != LAST:
            return self._read(self._http.get_object(f"{PATH}/{quote(job_id, safe='')}"))
        for job in self.list(page_size=1, full=True):
            return job
        raise NotFound("There are no jobs yet.")

    def submit(self, spec: Spec, *, idempotency_key: str | None = None) -> Job:
        """Submits a job. The spec is a mapping, or the path of a YAML or JSON file, which is sent unchanged.

        If the spec's `data.dataset` is the path of a file (relative to the folder of the spec), the file is uploaded
        first, and the spec that is sent has the name of the data set instead. Two calls with the same
        `idempotency_key` return the same job. Without this argument each call gets its own key, so a retry after a
        broken connection does not create a second job. The service checks the spec before a file is uploaded.
        Raises BadRequest with every problem of the spec.
        """
        document, datasets = submitting.read(spec), Datasets(self._http)
        submitting.check_before_upload(self._http, PATH, document, [document])
        with datasets.uploads_for_job() as uploaded:
            ready = submitting.readied(datasets, document, uploaded)
            response = submitting.sent(self._http, PATH, ready, idempotency_key)
        return self._read(self._http.object_in(response))

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

    def compare(self, *job_ids: str, sort: str | None = None, top: int | None = None) -> Comparison:
        """Jobs side by side: the fields in which their specs differ, and their metrics, the best job first. The id of a
        batch or a search means all its jobs.

        sort: a metric such as `accuracy`, or a field that differs. top: so many jobs at most.
        """
        ids = dict.fromkeys(each for job_id in job_ids for each in self._jobs_of(job_id))
        jobs = {job.id: job for job in map(self.get, ids)}  # `last` may be one of the others
        return comparing.compared([*jobs.values()], sort=sort, top=top)

    def _jobs_of(self, job_id: str) -> Sequence[str]:
        """The ids of the jobs of a batch or a search; else the id itself."""
        if job_id.startswith("batch_"):
            batch = Batch.of(self._http.get_object(f"/v1/batches/{quote(job_id, safe='')}"))
            return [row.id for row in batch.jobs]
        if job_id.startswith("search_"):
            search = Search.of(self._http.get_object(f"/v1/searches/{quote(job_id, safe='')}"))
            return [trial.job_id for trial in search.trials if trial.job_id]
        return [job_id]

    def dry_run(self, spec: Spec) -> DryRun:
        """What `submit` would do: checks the spec and says what the job would be. Nothing is uploaded or stored.

        If `data.dataset` is the path of a file, the spec is checked without it. Raises BadRequest with every problem;
        ServiceError with status 405 if the service is of an older version, which has no dry runs.
        """
        return DryRun.of(self._http.object_in(submitting.tried(self._http, PATH, submitting.read(spec))))

    def _read(self, document: Document) -> Job:
        return Job.of(document, self._http)
