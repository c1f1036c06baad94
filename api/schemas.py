"""The resources as clients see them. Every answer is built from its model, so the OpenAPI document matches it."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from services.datasets.versions import check_name
from services.errors import BadRequest
from services.schedules.definitions import CATCH_UP_SECONDS, MOST_CATCH_UP_SECONDS, MOST_JITTER_SECONDS
from services.text import PLAIN
from services.training.measures import MEASURES
from services.training.tasks.task import Target
from services.webhooks import news

T = TypeVar("T")
MAX_INTEGER = 2**31 - 1
MAX_ID = 2**53

SPEC_EXAMPLE: dict[str, Any] = {
    "name": "vowels",
    "architecture": {
        "cell": "gru",
        "hidden_size": 128,
        "num_layers": 2,
        "bidirectional": True,
        "dropout": 0.3,
        "pooling": "last",
        "batch_norm": False,
        "head_dropout": 0.5,
        "init": "default",
    },
    "training": {
        "epochs": 20,
        "batch_size": 64,
        "loss": {"name": "cross_entropy"},
        "optimizer": {"name": "adam", "lr": 1e-3, "weight_decay": 1e-5},
        "max_grad_norm": 1.0,
        "lr_schedule": {"name": "constant"},
        "early_stopping": None,
        "precision": "float32",
        "seed": 0,
    },
    "data": {"dataset": "japanese-vowels", "split": {"validation": 0.2, "test": 0.0}},
    "limits": {"max_runtime_seconds": 3600, "max_retries": 2},
    "priority": 0,
    "tags": {"team": "speech"},
}
PRESET_EXAMPLE: dict[str, Any] = {
    "preset": "basic_gru",
    "architecture": {"hidden_size": 32},
    "training": {"epochs": 5},
    "data": {"synthetic": {"samples": 1000, "length": 50, "features": 10, "classes": 2}},
}
PREDICT_EXAMPLE: dict[str, Any] = {
    "kind": "predict",
    "model": "vowels@production",
    "data": {"dataset": "new-recordings"},
    "format": "parquet",
}

MATRIX_EXAMPLE: dict[str, Any] = {
    **PRESET_EXAMPLE,
    "name": "nightly",
    "matrix": {"training.optimizer.lr": [1e-3, 1e-4], "architecture.hidden_size": [32, 64]},
}
BATCH_EXAMPLE: dict[str, Any] = {"name": "nightly", "jobs": [SPEC_EXAMPLE, PRESET_EXAMPLE]}
SEARCH_EXAMPLE: dict[str, Any] = {
    **PRESET_EXAMPLE,
    "name": "vowels",
    "search": {
        "space": {
            "training.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
            "architecture.hidden_size": {"low": 16, "high": 256, "log": True},
            "architecture.cell": ["lstm", "gru"],
        },
        "trials": 40,
        "parallel": 2,
    },
}
SCHEDULE_EXAMPLE: dict[str, Any] = {
    "name": "nightly",
    "cron": "30 2 * * *",
    "time_zone": "Europe/Berlin",
    "overlap": "skip",
    "submit": PRESET_EXAMPLE,
}


class Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, serialize_by_alias=True)


class FieldProblem(Answer):
    detail: str
    """What is wrong at this place, and what is allowed."""
    pointer: str
    """JSON pointer (RFC 6901) into the body; parameters are under /query, /path and /header."""


class LocatedProblem(FieldProblem):
    line: int | None = None
    """The line of a YAML body that it is about; left out if there is none."""


class ProblemDocument(Answer):
    """An error in the format of RFC 9457."""

    type: str
    """A URN that names the kind of problem: `urn:loopline:problem:` and the code."""
    title: str
    status: int
    detail: str
    code: str
    """For programs: `spec_invalid`, `job_not_found`, ..."""
    request_id: str | None
    """The X-Request-Id of the answer; the service's log lines contain it too."""
    errors: list[LocatedProblem]


class Page(Answer, Generic[T]):
    # For each `Page[...]` pydantic would look for the docstrings of its fields in every frame of the stack. That takes
    # a third of the import.
    model_config = ConfigDict(use_attribute_docstrings=False)

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = Field(
        default=False, description="Whether there is another page: request it with `after` = the id of the last item."
    )


class QueuePlace(Answer):
    name: str
    position: int | None
    """Jobs of the same tenant ahead of this one, at most 1,000; 0 means it is next; null once it runs or has ended."""


class DatasetRef(Answer):
    id: str
    name: str


class Progress(Answer):
    """Epochs and steps are numbered over the whole job, with all its folds. A job that predicts has neither; its
    progress is in sequences."""

    epoch: int | None
    epochs: int | None
    """With folds an estimate from above, until the last one has ended: a fold may stop early."""
    fold: int | None = None
    """The fold that is trained, from 1; one more than `folds` is the final model. Null for a job without folds, and
    before it starts."""
    folds: int | None = None
    fold_epoch: int | None = None
    """The epochs of this fold that have ended."""
    fold_epochs: int | None = None
    """The most epochs that this fold may take."""
    step: int | None
    steps: int | None
    answered: int | None = None
    """Of a job that predicts, the sequences that are answered and recorded; no later attempt answers them again."""
    sequences: int | None = None
    """All of them. Null for a job that trains, and until the file has been read."""
    sequences_per_second: float | None = None
    """While a job that predicts runs."""
    fraction: float
    eta_seconds: float | None
    """Estimated seconds until the end, at the speed so far; null while there is no estimate."""


class Best(Answer):
    epoch: int
    metric: str
    value: float | None


class Retrained(Answer):
    """The result of a retraining."""

    model: str
    version: int | None
    """The version in the registry; null if the model could not be registered."""
    alias: str | None
    """The alias to move."""
    decision: Literal["promoted", "held_back", "registered", "failed"]
    """`promoted` if the alias was moved to the version, `held_back` if it was not, `registered` if there was no alias
    to move, `failed` if the version could not be registered."""
    message: str
    """The reason, as a sentence for people."""
    warm_start: str | None
    """The version whose weights the training started from."""
    gate: dict[str, Any] | None
    """The comparison with the previous model: metric, both values, improvement, p-value, reason."""
    drift: dict[str, Any] | None
    """How the training samples differ from those of the previous model."""


class Baseline(Answer):
    """The best of the trivial answers to the task, fitted on the training split and scored on the same splits as the
    model."""

    answer: str
    """The trivial answer, for example `the most frequent class (3)`."""
    metrics: dict[str, float | None]
    metric: str
    """The metric that decides whether the model beats the baseline."""
    is_beaten: bool
    message: str | None
    """A sentence if the model does not beat the baseline, else null."""
    interval: tuple[float, float] | None = None
    """Of an accuracy on samples that the model was not trained on: what it can mean for new ones, with a confidence of
    95 %. The model beats the baseline only if the baseline is below. Null for other metrics."""


class Selection(Answer):
    """How the spec of a final model was selected."""

    search: str
    trials: int
    """The number of trials that were made before."""
    metric: str
    value: float | None
    """That of the best trial. Null if the trial was deleted."""


class OfClasses(Answer):
    """A list for each column, with a value for each class or label: of at most 1,000, those with the largest support. A
    value is null if it is not defined."""

    name: list[int | str]
    precision: list[float | None]
    recall: list[float | None]
    f1: list[float | None]
    support: list[int]
    """How many samples (of tags: steps) truly have it."""
    auroc: list[float | None]
    """Each class against the rest; null also if samples * classes is above 20,000,000."""


class OfTargets(Answer):
    """A list for each column, with a value for each target, in the unit of the data."""

    name: list[int | str]
    mae: list[float | None]
    rmse: list[float | None]
    r2: list[float | None] | None = None
    smape: list[float | None] | None = None
    """Of forecasts."""
    mase: list[float | None] | None = None


class OfSteps(Answer):
    """A list for each column, with a value for each step of a forecast's horizon."""

    step: list[int]
    mae: list[float | None]
    rmse: list[float | None]
    smape: list[float | None]
    mase: list[float | None]


class OfLengths(Answer):
    """A list for each column, with a value for each quartile of the lengths of the sequences. The metrics are those of
    the task."""

    model_config = ConfigDict(extra="allow")

    shortest: list[int]
    longest: list[int]
    """The steps of the shortest and of the longest sequence of each quartile."""
    sequences: list[int]
    is_worse: list[bool]
    """Whether the model is clearly worse on these sequences than on the others."""


class OfPlaces(Answer):
    """A list for each column, with a value for each range of steps of a text: those from the first on."""

    first: list[int]
    last: list[int]
    steps: list[int]
    """How many steps of all texts are in the range."""
    accuracy: list[float | None]
    perplexity: list[float | None]
    bits_per_step: list[float | None]


class OfQuantiles(Answer):
    quantile: list[float]
    share_below: list[float]
    """The share of actual values that are not above each quantile."""


class Average(Answer):
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None


class Confused(Answer):
    actual: int | str
    predicted: int | str
    count: int


class Confusion(Answer):
    matrix: list[list[int]] | None = None
    """Rows are true classes, columns are answers. Null for more than 50 classes."""
    largest: list[Confused] = []
    """At most 20 confusions, the most frequent first."""
    of_labels: list[list[list[int]]] | None = None
    """Of yes-or-no labels: [[true no, false yes], [false no, true yes]] of each."""


class Calibration(Answer):
    """Whether what is said with probability p comes true in a share p of the cases. Of classes a case is an answer, of
    labels it is the yes of one label. Each list has ten bins of probabilities, from 0 to 1; null for an empty one."""

    error: float | None
    """The expected calibration error: the mean of |probability - share|, weighted by count."""
    count: list[int]
    probability: list[float | None]
    """The mean of those that are in the bin."""
    share: list[float | None]
    """Of the cases that came true."""


class Details(Answer):
    """What lies behind the metrics of a split."""

    classes: OfClasses | None = None
    labels: OfClasses | None = None
    targets: OfTargets | None = None
    macro: Average | None = None
    """The mean over the classes that occur."""
    weighted: Average | None = None
    """The mean weighted by support."""
    confusion: Confusion | None = None
    calibration: Calibration | None = None
    horizon: OfSteps | None = None
    lengths: OfLengths | None = None
    places: OfPlaces | None = None
    quantiles: OfQuantiles | None = None


class Sample(Answer):
    """Text that a model wrote, drawn from what it answers."""

    text: str
    start: str
    """What it goes on from; empty for the beginning of a line."""
    steps: int
    """How many characters or words were drawn."""
    temperature: float
    seed: int


class FoldSamples(Answer):
    train: int
    validation: int


class FoldResult(Answer):
    """A model of a cross-validation, judged on the samples that it was not trained on."""

    model_config = ConfigDict(extra="allow")

    fold: int
    best_epoch: int
    """The number within the fold, as `epochs`."""
    epochs: int
    stopped_early: bool
    seed: int
    """The `training.seed` that this fold was trained with."""
    samples: FoldSamples
    metrics: dict[str, float | None]
    """Of the validation part, with the weights of the best epoch."""


class Result(Answer):
    model_config = ConfigDict(extra="allow")

    complete: bool = True
    """False for the best weights of a job that was cancelled, reached its time limit or was stopped by its search; they
    are never registered."""
    incomplete_because: Literal["cancelled", "time_limit", "pruned"] | None = None
    fold: int | None = None
    """Of an incomplete model of a job with folds: the fold that was trained; one more than their number is the final
    model."""
    metrics: dict[str, float | None]
    best_epoch: int | None
    """The epoch whose weights are the model. With folds, `best_epoch` and `epochs` are those of the final model alone.
    """
    epochs: int
    stopped_early: bool
    folds: list[FoldResult] | None = None
    """The folds that have ended. Null for a job without folds; so are the next two."""
    mean: dict[str, float | None] | None = None
    """The mean of each metric over the folds."""
    std: dict[str, float | None] | None = None
    """The sample standard deviation of each metric over the folds; null for a single fold."""
    baseline: Baseline | None = None
    """Null for a job that an earlier version of Loopline trained."""
    selection: Selection | None = None
    """Null unless the job is the final model of a search."""
    details: dict[Literal["validation", "test"], Details] | None = None
    """By split. Null for one value to predict, for a job that ended early, and for an earlier version of Loopline."""
    gradients: dict[str, float | int | None] | None = None
    """What the gradient is like inside the network with its best weights, in the fields of an epoch. Null for a job
    that ended early, and for an earlier version of Loopline."""
    advice: list[str] | None = None
    """What to do about the run: a sentence where its numbers are clear, and none where they are in doubt. Null as
    `gradients` is."""
    sample: Sample | None = None
    """Null unless the task is `next_step`."""
    retrain: Retrained | None = None
    """Null unless the spec has a `retrain`."""


class Answers(Answer):
    """The result of a job that predicts. `GET /v1/jobs/{id}/answers` downloads the file."""

    model: str
    """The version, such as `vowels@3`, or the id of a job."""
    file: str
    format: Literal["csv", "parquet"]
    bytes: int
    sha256: str
    sequences: int
    rows: int
    """docs/predict.md says what a row is."""
    sequences_per_second: float | None
    """Of the last attempt."""
    backend: str
    """What computed: `onnxruntime`, `torch` or `numpy`."""
    warnings: list[str]
    """What makes the answers less sure."""


class JobLinks(Answer):
    """Null where the job has no such thing, because it trains or because it predicts."""

    self: str
    epochs: str | None
    steps: str | None
    checkpoints: str | None
    events: str
    logs: str
    model: str | None
    """Null until there is a model: when the job has succeeded, or has ended early with its best weights until then."""
    answers: str | None
    """Null until a job that predicts has succeeded."""
    cancel: str
    pause: str
    resume: str


class JobSummary(Answer):
    """One request to train or to predict, without its spec."""

    object: Literal["job"] = "job"
    id: str
    kind: Literal["train", "predict"]
    name: str | None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    terminal: bool
    """Whether the job has ended. Polling loops should test this field, not the names of states."""
    reason: str | None
    """Why the job ended, or why it waits again after a lost or failed attempt; a code for programs."""
    message: str | None
    """The same as a sentence for people; also says why a job is paused."""
    batch_id: str | None
    """The batch with which the job was submitted."""
    search_id: str | None
    """The search of which the job is a trial or the final model."""
    trial: int | None
    """Its number in that search, from 1; null for the final model."""
    waits_until: datetime | None
    """A retried job does not start before this time; null if it waits only for its turn."""
    silent_since: datetime | None
    """The time of the last heartbeat, if the worker of this running job has stopped sending heartbeats; null otherwise.
    If none arrives, the job is queued again when its lease expires."""
    queue: QueuePlace
    priority: int
    tags: dict[str, str]
    dataset: DatasetRef | None
    warnings: list[str]
    """Possible mistakes in its data, found when the job was submitted: values that may mean something else."""
    attempt: int
    """Number of the newest attempt; 0 before the first."""
    failures: int
    """Failed attempts that were retried (at most limits.max_retries)."""
    lost: int
    """Attempts whose worker disappeared since the last new checkpoint."""
    progress: Progress
    best: Best | None
    result: Result | None
    """Of a job that trains."""
    answers: Answers | None
    """Of a job that predicts, when it has succeeded."""
    cancel_requested: bool
    """Whether the running job will be cancelled at its next step."""
    pause_requested: bool
    """Whether the running job will be paused at its next step."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: JobLinks


class Job(JobSummary):
    """One request to train or to predict."""

    spec: dict[str, Any]
    """The spec as submitted, with its preset and every default filled in."""


class Estimate(Answer):
    """How long a job will take, from the tenant's latest jobs in the same queue whose updates were the most alike."""

    epoch_seconds: float | None
    """Null if it is unknown; so are `seconds` and `device`."""
    seconds: float | None
    """All epochs, of all folds. The job may end earlier (`early_stopping`), but hardly later."""
    device: str | None
    """`cpu`, or the name of the GPU that ran the latest job of the queue."""
    jobs: int
    """The number of earlier jobs that the estimate is from."""
    message: str
    """The estimate as a sentence, or the reason why there is none."""


class DrySamples(Answer):
    train: int
    validation: int
    test: int


class Chosen(Answer):
    """A field of a spec that was chosen for the data, because the spec names no network."""

    field: str
    """Its dotted path, such as `architecture.hidden_size`."""
    value: Any
    why: str


class DryRun(Answer):
    """What a submission would do. Nothing was stored."""

    object: Literal["dry_run"] = "dry_run"
    name: str | None
    spec: dict[str, Any]
    """The spec with its preset and every default filled in. If it names no network and its data set was not uploaded
    yet, it is the spec as it was sent."""
    dataset: DatasetRef | None
    unchecked: str | None
    """The reason why the data set was not looked at: `data.dataset` is a path, so the file is to be uploaded. Then the
    spec was checked by itself, and the next fields are null. A submission is rejected until the file is uploaded."""
    parameters: int | None
    """Of the network, at most. Null for texts: the job makes their vocabulary."""
    samples: DrySamples | None
    """The samples of each part; with folds, of one of them. They are approximate if the split is by time or content,
    or by many groups. For a forecast, a sample is a window."""
    steps_per_epoch: int | None
    """Updates of the weights in an epoch."""
    steps: int | None
    """Updates in all epochs, of all folds."""
    memory_bytes: int | None
    """Main memory and GPU memory together that the job needs at least."""
    warnings: list[str]
    """What is allowed and rarely meant, in the data and in the spec."""
    estimate: Estimate
    cheaper: str | None
    """A change of the spec that makes an epoch of a forecast much shorter."""
    chosen: list[Chosen]
    """The fields that were chosen for the data set; empty if the spec names a network."""


class DryRunList(Answer):
    """A dry run of each job of a batch, in the order of the batch."""

    object: Literal["list"] = "list"
    data: list[DryRun]


class ListedJob(JobSummary):
    """One request to train or to predict, as it appears in lists."""

    spec: dict[str, Any] = {}
    """Only with `full=true`: the spec as submitted, with its preset and every default filled in."""


class JobList(Page[ListedJob]):
    """Jobs, newest first."""


class BatchCounts(Answer):
    """The number of jobs in each state."""

    queued: int
    running: int
    paused: int
    succeeded: int
    failed: int
    cancelled: int


class BatchLinks(Answer):
    self: str
    cancel: str


class BatchSummary(Answer):
    """Jobs that were submitted together, with their counts."""

    object: Literal["batch"] = "batch"
    id: str
    name: str | None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    """The common status of its jobs: `running` from the start of the first job until all have ended; then `failed` if
    one failed, else `cancelled` if one was cancelled."""
    terminal: bool
    """Whether every job has ended."""
    total: int
    """Number of jobs, without deleted ones."""
    counts: BatchCounts
    varied: list[str]
    """The keys of its matrix: the fields that differ between its jobs."""
    schedule_id: str | None
    """The schedule that submitted the batch; it may have been deleted since."""
    created_at: datetime
    ended_at: datetime | None
    """When its last job ended. The scheduler sets it some seconds later; it stays when jobs are deleted."""
    links: BatchLinks


class SelfLink(Answer):
    self: str


class BatchJob(Answer):
    """A row of a batch's table."""

    id: str
    name: str | None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    terminal: bool
    reason: str | None
    message: str | None
    cell: dict[str, Any]
    """The value of this job at each path of `varied`; null if its spec has none there."""
    warnings: list[str]
    """Possible mistakes in its data: values that may mean something else."""
    attempt: int
    epoch: int
    epochs: int | None
    fraction: float
    """The share of its steps that are done, from 0 to 1."""
    best: Best | None
    metrics: dict[str, float | None]
    """The metrics of its result, with folds also the means over them; empty until the job has succeeded."""
    silent_since: datetime | None
    """As in the job: the time of the last heartbeat, if its worker has stopped sending them."""
    seconds: float | None
    """Seconds from its start to its end; null until the job has both."""
    links: SelfLink


class Batch(BatchSummary):
    """Jobs that were submitted together, as one table."""

    fraction: float
    """The share of the work of all jobs that is done, from 0 to 1; a job that has ended counts as 1."""
    finished_at: datetime | None
    """When the last job ended; null before that."""
    jobs: list[BatchJob]
    """In the order in which they were submitted."""


class BatchList(Page[BatchSummary]):
    """Batches, newest first."""


class StopEarly(Answer):
    """How a search stops trials early."""

    rule: Literal["asha", "median"]
    first_rung: int
    """The epoch after which trials are compared for the first time."""
    factor: int
    """The epoch of each comparison, divided by the epoch of the one before."""


class SearchSettings(Answer):
    """What a search varies, and how."""

    space: dict[str, Any]
    """The fields that are varied, as they were submitted, or as they were chosen for the data."""
    algorithm: Literal["tpe", "random", "grid"]
    metric: str
    """The metric by which trials are compared, always of validation data."""
    higher_is_better: bool
    seed: int
    datasets: dict[str, str]
    """By the names in its specs, the versions that every trial uses."""
    stop_early: StopEarly | None
    """Null if every trial is trained to its end."""
    minutes: float | None
    """How many minutes the trials and the final model may take from the submission on; what has begun is completed.
    Null if there is no limit; adding trials after the limit removes it."""
    final: bool
    """Whether the best trial's spec is trained once more, on the samples of training and validation together."""
    base: dict[str, Any] | None
    """If the space was chosen for the data: the spec that it varies, completed."""
    first: dict[str, Any] | None
    """If the space was chosen for the data: the values of the first trial, which are those of the spec."""


class SearchCounts(BatchCounts):
    """The number of trials in each state."""

    pruned: int
    """Trials that the search stopped early. Their jobs are cancelled, and `cancelled` does not count them."""
    refused: int
    """Trials whose values cannot be combined. They have no jobs."""


class SearchLinks(Answer):
    self: str
    cancel: str
    pause: str
    resume: str
    trials: str


class SearchSummary(Answer):
    """A search for the best values of some fields of a spec, with the counts of its trials."""

    object: Literal["search"] = "search"
    id: str
    name: str | None
    status: Literal["running", "paused", "succeeded", "failed", "cancelled"]
    """`running` until its trials and its final model have ended; then `succeeded` if a trial has a result, else
    `failed`."""
    terminal: bool
    """Whether it has ended. It goes on when trials are added."""
    message: str | None
    """What it waits for, why it was paused, or why it ended without all that was wanted; a sentence for people."""
    cancel_requested: bool
    """Whether it will be cancelled when its running jobs have stopped."""
    wanted: int
    """Number of trials that it makes."""
    made: int
    """Number of trials made so far, with refused and deleted ones."""
    parallel: int
    """How many trials may wait or run at once."""
    counts: SearchCounts
    settings: SearchSettings
    created_at: datetime
    ended_at: datetime | None
    links: SearchLinks


class SearchBest(Answer):
    """The best trial so far."""

    trial: int
    job_id: str
    value: float
    """Its value of the metric."""
    choices: dict[str, Any]
    links: SelfLink


class SearchTrial(Answer):
    """A row of a search's table."""

    trial: int
    """Its number, from 1."""
    job_id: str | None
    """Null if the trial was refused."""
    name: str | None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled", "pruned", "refused"]
    terminal: bool
    message: str | None
    value: float | None
    """Its value of the metric; null until the job has succeeded."""
    best_so_far: float | None
    """The best value of this trial and those before it."""
    choices: dict[str, Any]
    """Its value at each path of the space, without the paths that are not varied in it."""
    epoch: int
    epochs: int | None
    silent_since: datetime | None
    """As in the job: the time of the last heartbeat, if its worker has stopped sending them."""
    seconds: float | None
    """Seconds from its start to its end; null until the job has both."""
    links: SelfLink | None


class FieldImportance(Answer):
    """How much a field matters for the metric, by the trials so far."""

    path: str
    share: float
    """The share of the variance in rank of the trials that this field alone explains, from 0 to 1 (adjusted R squared).
    """
    trials: int
    """The number of trials that it was computed from."""


class SearchFinal(Answer):
    """The final model: the best trial's spec, trained once more on the samples of training and validation together, and
    tested once."""

    job_id: str
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    message: str | None
    epoch: int
    epochs: int | None
    silent_since: datetime | None
    """As of a trial."""
    metrics: dict[str, float | None]
    """Empty until it has succeeded."""
    baseline: Baseline | None
    """Null until it has succeeded."""
    links: SelfLink


class Search(SearchSummary):
    """A search with its trials."""

    best: SearchBest | None
    final: SearchFinal | None
    """Null until the trials have ended, and with `final: false`."""
    trials: list[SearchTrial]
    """By number."""
    importance: list[FieldImportance]
    """The most important field first; only fields that at least 10 succeeded or pruned trials have varied."""
    advice: list[str]
    """What would help more: more trials, more data, or neither; sentences for people. Empty until the search has ended,
    and with few trials."""
    document: dict[str, Any]
    """The spec and its `search`, as submitted."""


class SearchDryRun(Answer):
    """What the submission of a search would do. Nothing was stored."""

    object: Literal["search_dry_run"] = "search_dry_run"
    name: str | None
    trial: DryRun
    """A trial with the values of the spec, or with the first valid values of the space if those are not valid."""
    space: dict[str, Any]
    """The fields that are varied, as they were sent, or as they are chosen for the data."""
    combinations: int | None
    """How many combinations the space has; null if it is unbounded or has more than 10,000."""
    trials: int
    """How many trials are made at most."""
    parallel: int
    metric: str
    minutes: float | None
    seconds: float | None
    """Of all trials and the final model, roughly, on the workers that are there now. Trials that are stopped early take
    less. Null if it is unknown."""
    message: str
    """How long a trial and the search take, in a sentence, or why that is unknown."""


class SearchList(Page[SearchSummary]):
    """Searches, newest first, without their trials."""


class MoreTrials(BaseModel):
    """A request to add trials to a search."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    more: int = Field(ge=1, le=1000)
    """How many more trials the search makes."""


def _with_measures(schema: dict[str, Any]) -> None:
    """Adds the metrics of both splits to a schema."""
    number = {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None}
    named = [f"{split}_{name}" for name in MEASURES for split in ("train", "validation")]
    schema["properties"] |= {name: {**number, "title": name.replace("_", " ").title()} for name in named}


class Epoch(Answer):
    """The numbers of one epoch; its metrics depend on the target: accuracy and macro F1, or MAE, RMSE and R2."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_with_measures)

    epoch: int
    """From 1, over the whole job with all its folds."""
    fold: int | None = None
    """Of a job with folds, from 1; one more than the number of folds is the final model. Else the field is left out."""
    fold_epoch: int | None = None
    """The number of the epoch within its fold; it comes with `fold`."""
    lr: float | None = None
    grad_norm_mean: float | None = None
    """Before clipping."""
    grad_norm_max: float | None = None
    clipped_fraction: float | None = None
    """Share of the updates whose gradient was clipped."""
    gradient_reach: int | None = None
    """How many steps back in time the gradient reaches. This field and the next three are of the probe, which is not
    made in every epoch; `grad_norm_*` and `gradient_at_lag_*` come with them."""
    gradient_steps: int | None = None
    """The steps of the longest sequence of the probe."""
    saturated_fraction: float | None = None
    """Share of the outputs of tanh, LSTM and GRU units that are beyond 0.99 or -0.99."""
    dead_units: int | None = None
    """Units of relu that are never active."""
    seconds: float | None = None
    samples_per_second: float | None = None


class EpochList(Page[Epoch]):
    """Epochs, ascending; `after` takes the last epoch's number."""


class Steps(Answer):
    """Loss and gradient norm by step, thinned out to at most `points`; lists of one length."""

    object: Literal["steps"] = "steps"
    step: list[int]
    loss: list[float | None]
    grad_norm: list[float | None]
    """Before clipping."""
    fold: list[int] | None = None
    """The fold of each step. Null for a job without folds."""
    total: int
    """Steps recorded, of those that were asked for."""


class Curve(Answer):
    """The losses of a job at some of its epochs; lists of one length."""

    job_id: str
    epoch: list[int]
    train_loss: list[float | None]
    validation_loss: list[float | None]


class CurveList(Page[Curve]):
    """Curves of the jobs that were asked for, without those that have no epoch yet."""


class CheckpointLinks(Answer):
    self: str


class Checkpoint(Answer):
    """A saved state from which training continues exactly."""

    id: int
    epoch: int
    step: int
    fold: int | None = None
    """Null for a job without folds."""
    best: bool
    bytes: int
    sha256: str
    """Of the weights and optimizer state (the .safetensors file)."""
    created_at: datetime
    links: CheckpointLinks


class CheckpointList(Page[Checkpoint]):
    """Checkpoints, ascending."""


class Event(Answer):
    """Something that happened to a job."""

    id: int
    at: datetime
    type: str
    """`status` is a change of state; docs/http.md describes the other types, and more may be added."""
    level: Literal["info", "warning", "error"]
    attempt: int
    worker: str | None
    """The worker that owned the job's newest attempt at that time."""
    from_status: str | None
    to_status: str | None
    reason: str | None
    message: str | None
    data: dict[str, Any] | None
    """Values for programs; their names depend on the type."""


class EventList(Page[Event]):
    """Events, in the order they happened; `after` takes the last event's id."""


class LogLine(Answer):
    """A line that a trainer logged (`info`, `warning`, `error`) or printed (`output`)."""

    number: int
    """Counts from 1 over all attempts. The service keeps the newest 2,000 lines."""
    at: datetime
    attempt: int
    level: Literal["output", "info", "warning", "error"]
    text: str


class LogLineList(Page[LogLine]):
    """Log lines, ascending; `after` takes the last line's number."""


class Worker(Answer):
    """A process that runs jobs, as of its last heartbeat."""

    name: str
    """Host, process id and a token that is new at each start; host and device if no worker can be started."""
    queues: list[str]
    """Those that it takes jobs of; none while it shuts down."""
    state: Literal["idle", "busy", "broken"]
    job_id: str | None
    """Null while the worker is idle or runs another tenant's job."""
    started_at: datetime
    seen_at: datetime
    heard_at: datetime | None
    """When a notification from the broker last reached it; null before the first."""
    device: str | None
    """What it computes on: `cpu`, or the name of a GPU. Null until its first trainer is ready."""
    memory_bytes: int | None
    """The memory of that device; of `cpu`, this worker's share of what the machine or its container has."""


class WorkerList(Page[Worker]):
    """The workers that were seen within the last minute, by name."""


class Dataset(Answer):
    """An immutable version of uploaded sequences."""

    object: Literal["dataset"] = "dataset"
    id: str
    name: str
    version: int
    status: Literal["ready", "validating", "rejected", "raw"]
    """`validating` while the file is being checked, which no job waits for. Then `ready`; or `rejected` for good. `raw`
    was kept as it came, for jobs that predict."""
    message: str | None
    """Why it was rejected."""
    problems: list[FieldProblem] | None
    """Everything that is wrong with a rejected file, as a 422 would say it."""
    sha256: str
    bytes: int
    """Size of the stored file. Until the data set is ready, hash and size are those of the uploaded file."""
    format: str | None
    """The format of the uploaded file, such as `csv`. This, and what the check counts, is null unless it is ready."""
    source_sha256: str | None
    source_bytes: int | None
    """Hash and size of the uploaded file if another form of it is stored; null for an `.npz`."""
    schema_: dict[str, Any] | None = Field(None, serialization_alias="schema")
    """Which columns of the file are what: given or inferred. Null for an `.npz`."""
    report: dict[str, Any] | None = None
    """What the check of the file found. Null for an `.npz`, and in lists."""
    samples: int | None
    features: int | None
    min_length: int | None
    max_length: int | None
    target: Target | None
    target_dim: int | None
    """Classes, tags, yes-or-no labels or values to predict; 0 for texts without labels."""
    classes: list[int | str] | None
    class_counts: list[int] | None
    """Number of sequences of each of `classes`; number of steps if there is a class for each step."""
    given_split: dict[str, int] | None
    warnings: list[str]
    """Possible mistakes in the data, for a job that leaves everything at its default: values that may mean something
    else."""
    created_at: datetime


class DatasetList(Page[Dataset]):
    """Data sets, newest first."""


class Upload(Answer):
    """A file that is sent in several requests."""

    object: Literal["upload"] = "upload"
    id: str
    bytes: int
    """How many the file has."""
    offset: int
    """How many have arrived."""
    dataset_id: str | None
    """The data set that was made of it."""
    created_at: datetime


class Bin(Answer):
    """How many values there are from `low` to `high`."""

    low: float | None
    high: float | None
    count: int


class ColumnPreview(Answer):
    name: str
    kind: Literal["number", "category"]
    missing: int
    """How many of the steps that were read have no value."""
    bins: list[Bin] | None
    """A histogram of the numbers that were read."""
    words: list[list[str | int]] | None
    """Of a category: its most frequent words, each with how often it was read."""


class SequencePreview(Answer):
    id: str | None
    length: int
    """Its steps, or the characters of a text."""
    target: str | None
    """What there is to predict of the whole sequence."""
    times: list[str | float | None] | None
    """The times of the steps that are shown."""
    values: list[list[float | str | None]]
    """Of each column, the values of the last 300 steps."""
    static: dict[str, str | float | None]
    text: str | None
    """The first 2,000 characters."""


class Sampled(Answer):
    sequences: int
    of: int


class DatasetPreview(Answer):
    """A look into a data set: a part of it was read."""

    object: Literal["dataset_preview"] = "dataset_preview"
    dataset_id: str
    columns: list[ColumnPreview]
    """The first 24 columns of steps: features, and what there is to predict at each step."""
    more_columns: int
    """How many columns there are besides."""
    lengths: list[Bin]
    """A histogram of the lengths of all sequences, or texts."""
    sequences: list[SequencePreview]
    """Up to six sequences, evenly from the whole data set."""
    sampled: Sampled
    """From how many sequences the columns were counted."""


class UploadCheck(Answer):
    """How an upload would be read as a data set. Nothing was made of it."""

    object: Literal["upload_check"] = "upload_check"
    unfinished: bool
    """Whether its check takes too long to wait for. A data set can be made of it, and is then checked."""
    message: str | None
    """What is wrong, or why there is nothing to say yet."""
    problems: list[FieldProblem]
    """Everything that is wrong; then all below is null."""
    format: str | None
    schema_: dict[str, Any] | None = Field(None, serialization_alias="schema")
    """Which columns are what: as the query says, and inferred where it says nothing."""
    report: dict[str, Any] | None
    """As of a data set."""
    warnings: list[str]
    samples: int | None
    target: Target | None


class ModelData(Answer):
    """The version of a data set that a model was trained from; it may have been deleted since."""

    id: str
    name: str
    version: int
    sha256: str


class ModelFile(Answer):
    name: str
    bytes: int
    sha256: str


class ModelVersionLinks(Answer):
    self: str
    job: str
    download: str


class ModelVersion(Answer):
    """The result of a job, as a version of a model."""

    object: Literal["model_version"] = "model_version"
    model: str
    version: int
    aliases: list[str]
    """The aliases that point at this version now."""
    job_id: str
    dataset: ModelData | None
    """Null if the model was trained on synthetic data, which the spec describes."""
    spec: dict[str, Any]
    """The spec of the job, with every default filled in."""
    metrics: dict[str, float | None]
    """As in the job's result."""
    files: list[ModelFile]
    retrain: Retrained | None
    """The result of the retraining that made it; null if somebody registered it."""
    note: str | None
    created_at: datetime
    created_by: str | None
    """The API key that registered the version; null if no key was needed."""
    links: ModelVersionLinks


class ModelVersionList(Page[ModelVersion]):
    """Versions of a model, newest first; `after` takes the last one's number."""


class ModelLinks(Answer):
    self: str
    versions: str
    history: str


class Model(Answer):
    """A name in the registry."""

    object: Literal["model"] = "model"
    name: str
    aliases: dict[str, int]
    """The number of the version that each alias points at."""
    latest: ModelVersion
    """The newest version."""
    links: ModelLinks


class ModelList(Page[Model]):
    """Models by name; `after` takes the last one's name."""


class ModelMove(Answer):
    """One move of an alias of a model."""

    id: int
    at: datetime
    alias: str
    action: Literal["promote", "rollback", "demote"]
    from_version: int | None
    to_version: int | None
    by: str | None
    """The API key; null if no key was needed."""
    reason: str | None


class ModelMoveList(Page[ModelMove]):
    """Moves of a model's aliases, newest first; `after` takes the last one's id."""


class Body(BaseModel):
    """What a request asks for."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class VersionRequest(Body):
    """A request to register a job's result as a version of a model."""

    job: str = Field(min_length=1, max_length=100)
    """The id of a job that has succeeded."""
    note: Annotated[str, Field(max_length=1000)] | None = None


class RollbackRequest(Body):
    reason: Annotated[str, Field(max_length=1000)] | None = None
    expected: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    """Move the alias only if it points at this version now; 0: only if the alias does not exist; null: always."""


class AliasRequest(RollbackRequest):
    """A request to point an alias at a version."""

    version: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | Annotated[str, Field(min_length=1, max_length=63)]
    """A number, another alias, or `latest`."""


class Preset(Answer):
    name: str
    description: str
    spec: dict[str, Any]
    """The part of a spec that the preset fills in; a spec may override any field."""


class PresetList(Page[Preset]):
    """The named architectures."""


class Key(Answer):
    """An API key, without its secret."""

    object: Literal["key"] = "key"
    id: str
    name: str | None
    tenant: str
    scopes: list[Literal["read", "predict", "submit", "admin"]]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """Accurate to the minute."""
    revoked_at: datetime | None


class NewKey(Key):
    """An API key that was just created."""

    key: str
    """The key itself, `ll_...`. It is shown only here: the service stores a hash of it."""


class KeyList(Page[Key]):
    """The keys of the tenant, newest first, including expired and revoked ones."""


class KeyRequest(BaseModel):
    """A request to create a key."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    scopes: list[Literal["read", "predict", "submit", "admin"]] = Field(min_length=1, max_length=10)
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=PLAIN)] | None = None
    """A name that says what the key is for."""
    expires_days: float | None = Field(None, gt=0, le=36_500, allow_inf_nan=False)
    """The key expires after this many days; null: it never expires."""


def _event(name: str) -> str:
    if name not in news.EVENTS:
        raise PydanticCustomError(
            "unknown_event",
            "there is no event {name}; there are {events}",
            {"name": name, "events": ", ".join(news.EVENTS)},
        )
    return name


EventName = Annotated[
    str,
    Field(max_length=100),
    AfterValidator(_event),
    WithJsonSchema(
        {
            "type": "string",
            "enum": [*news.EVENTS],
            "description": "\n".join(f"- `{event}`: {sentence}" for event, sentence in news.EVENTS.items()),
        }
    ),
]


class Webhook(Answer):
    """An address that receives a message when something happens to jobs, batches, searches, schedules or models."""

    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    events: list[EventName]
    only: str | None
    """The webhook receives only events of this job, batch, search or schedule; null: of all."""
    tags: dict[str, str]
    """The webhook receives only events of jobs that have all of these tags."""
    created_at: datetime
    delivered_at: datetime | None
    """When a message last arrived."""
    failures: int
    """Number of failed attempts in a row."""
    disabled_at: datetime | None
    """Nothing has been sent since this time; null while the webhook is enabled."""
    disabled_reason: str | None
    old_secret_until: datetime | None
    """The secret was changed: until this time messages are also signed with the old one."""


class NewWebhook(Webhook):
    """A webhook that was just created or has a new secret."""

    secret: str
    """The secret that verifies messages, `whsec_...`. It is shown only here."""


class WebhookList(Page[Webhook]):
    """The webhooks of the tenant, newest first."""


class Delivery(Answer):
    """A message for a webhook, and its result."""

    object: Literal["delivery"] = "delivery"
    id: str
    """The `webhook-id`, the same at every attempt."""
    webhook_id: str
    job_id: str | None
    event: str
    state: Literal["pending", "delivered", "given_up"]
    attempts: int
    created_at: datetime
    attempted_at: datetime | None
    """When the newest attempt began."""
    next_at: datetime | None
    """When the message is sent next, unless its webhook is paused for longer after failures; null if it is not sent
    again."""
    delivered_at: datetime | None
    last_status: int | None
    """The HTTP status of the receiver at the newest attempt; null if it did not answer."""
    last_error: str | None
    last_answer: str | None
    """The beginning of the receiver's answer."""
    payload: dict[str, Any]


class DeliveryList(Page[Delivery]):
    """The messages of a webhook from the last 30 days, newest first."""


PLAIN_TAG = Field(max_length=200, pattern=PLAIN)


class WebhookRequest(BaseModel):
    """A request to create a webhook."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str = Field(max_length=2000, pattern="^https?://")
    """The public address that receives the messages."""
    events: list[EventName] | None = Field(None, min_length=1, max_length=len(news.EVENTS))
    """Null: the three ends of jobs, `batch.ended` if `only` is a batch, `search.ended` if it is a search."""
    only: str | None = Field(None, max_length=100)
    """The id of an unfinished job, batch or search, or of a schedule; the webhook receives only its events."""
    tags: dict[Annotated[str, PLAIN_TAG], Annotated[str, PLAIN_TAG]] = Field({}, max_length=16)
    """Send only events of jobs that have all of these tags; of a batch if one of its jobs has them."""


class InboxFile(Answer):
    """A file in the inbox, and its result."""

    id: str
    """Its path: `TENANT/NAME/FILE`."""
    at: datetime
    """When the file was accepted or rejected."""
    dataset_id: str | None
    dataset: str | None
    """The name in a spec, `vowels@7`; null if the file is not a data set, or the version was deleted."""
    error: str | None
    """Why the file is not a data set; it is read again when it changes."""
    warnings: list[str]
    """The warnings of the data set."""


class InboxList(Page[InboxFile]):
    """The files in the inbox with their results, newest first; `after` takes the last one's id."""


OverlapPolicy = Literal["skip", "queue", "replace"]


class ScheduleRequest(Body):
    """A request to create or replace a schedule."""

    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """1 to 100 of a-z, 0-9, dot, dash and underscore; may be omitted if it is in the address."""
    cron: str = Field(min_length=1, max_length=1000)
    """Five fields, `30 2 * * *`, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`."""
    time_zone: str = Field("UTC", min_length=1, max_length=100)
    """The time zone of the expression: an IANA name, such as `Europe/Berlin`."""
    submit: dict[str, Any]
    """What is submitted, as `POST /v1/batches` takes it: a spec, one with a `matrix`, or `{name, jobs: [...]}`."""
    overlap: OverlapPolicy = "skip"
    """What to do with a slot while the previous batch has not ended."""
    catch_up_seconds: int = Field(CATCH_UP_SECONDS, ge=0, le=MOST_CATCH_UP_SECONDS)
    """A slot is still fired if it is at most this many seconds late; 0: a late slot is never fired."""
    jitter_seconds: int = Field(0, ge=0, le=MOST_JITTER_SECONDS)
    """Each slot is fired up to this many seconds later, by an amount of its own."""
    only_new_data: bool = False
    """Skip a slot if no data set has a newer version than at the previous run."""


class FiringLinks(Answer):
    schedule: str
    batch: str | None


class Firing(Answer):
    """A slot of a schedule, or a run that somebody requested, and its result."""

    object: Literal["firing"] = "firing"
    id: str
    schedule_id: str
    slot: datetime | None
    """When the slot was due, in the schedule's time zone; null for a run that somebody requested."""
    outcome: Literal["fired", "waiting", "succeeded", "failed", "cancelled", "deleted", "skipped", "missed", "refused"]
    """`fired` until its batch has ended, then the status of the batch."""
    reason: str | None
    message: str | None
    """A sentence for people: the reason, and what to do."""
    batch_id: str | None
    counts: dict[str, int] | None
    """The number of jobs of its batch in each state, now or when it ended; null if there is no batch."""
    created_at: datetime
    ended_at: datetime | None
    links: FiringLinks


class FiringList(Page[Firing]):
    """The results of a schedule's slots of the last 400 days, newest first."""


class ScheduleLinks(Answer):
    self: str
    firings: str
    run: str
    pause: str
    resume: str


class ScheduleSummary(Answer):
    """A schedule without the specs that it submits."""

    object: Literal["schedule"] = "schedule"
    id: str
    name: str
    cron: str
    time_zone: str
    overlap: OverlapPolicy
    catch_up_seconds: int
    jitter_seconds: int
    only_new_data: bool
    next: list[datetime]
    """The next three slots, in its time zone; none while the schedule is paused."""
    due_at: datetime | None
    """When the first of them will be fired, including its jitter."""
    last: Firing | None
    """Its newest firing."""
    paused_at: datetime | None
    created_at: datetime
    created_by: str | None
    """The API key; null if no key was needed."""
    updated_at: datetime
    links: ScheduleLinks


class Schedule(ScheduleSummary):
    """A schedule with the specs that it submits."""

    submit: dict[str, Any]
    """The document as it was sent."""


class ScheduleList(Page[ScheduleSummary]):
    """Schedules, by name; `after` takes the last one's name."""


class AuditEntry(Answer):
    """One change that somebody made."""

    id: int
    at: datetime
    key_id: str | None
    """Null if no key was needed, and for changes made on the service's own host."""
    action: str
    """A noun and a verb: `job.submit`, `key.revoke`."""
    resource_id: str | None
    request_id: str | None
    remote_address: str | None


class AuditList(Page[AuditEntry]):
    """What was changed in the tenant, newest first; `after` takes the last entry's id."""


class Quota(Answer):
    """How much is used, and the limit."""

    used: int
    limit: int | None
    """Null if there is no limit."""


class Quotas(Answer):
    queued: Quota
    """Jobs that wait: queued or paused."""
    running: Quota
    bytes: Quota
    """Bytes of uploaded data sets."""


class Identity(Answer):
    """Who the request is from."""

    object: Literal["identity"] = "identity"
    tenant: str
    key_id: str | None
    """Null if no key is needed."""
    scopes: list[Literal["read", "predict", "submit", "admin"]]
    quotas: Quotas


class SessionRequest(BaseModel):
    """A request to sign in."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    key: str = Field(min_length=1, max_length=1000)
    """An API key. The service does not keep it."""


class Session(Answer):
    """What a web page may do here."""

    object: Literal["session"] = "session"
    signed_in: bool
    """Whether the request came with the cookie of a session."""
    needs_key: bool
    """Whether this service asks for a key. If it does not, nobody has to sign in."""
    tenant: str
    key_id: str | None
    """Null if no key is needed."""
    scopes: list[Literal["read", "predict", "submit", "admin"]]
    csrf_token: str | None
    """What each change must send as `X-CSRF-Token`. Null if there is no session."""


class Alive(Answer):
    status: Literal["alive"] = "alive"


class Ready(Answer):
    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, str]
    """`ok` or a sentence for each check: `database`, `folder`, `workers`, `broker`, and `blobs` in a store."""


class Working(Answer):
    status: Literal["working", "stuck"]
    checks: dict[str, str]
    """`ok` or a sentence for each check: `database`, `workers`."""


# What requests carry besides a body. The titles say where a problem lies: see errors.parameters_invalid.

Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _columns(value: object) -> object:
    """Names of columns, as a query can give them."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        with suppress(ValueError):
            return json.loads(value)
    return [each.strip() for each in value.split(",")]


Columns = Annotated[list[Text], BeforeValidator(_columns, json_schema_input_type=str)]


def _dataset_name(name: str) -> str:
    try:
        check_name(name)
    except BadRequest as error:
        raise PydanticCustomError("dataset_name", error.problems[0].detail) from None
    return name


class Parameters(BaseModel):
    @classmethod
    @cache
    def model_json_schema(cls, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """The schema, made once: flask-openapi asks for it at every request, and making it takes half a millisecond."""
        return super().model_json_schema(**options)


class Query(Parameters):
    model_config = ConfigDict(title="query", extra="forbid", use_attribute_docstrings=True)


class Header(Parameters):
    model_config = ConfigDict(title="header", populate_by_name=True, use_attribute_docstrings=True)


class Path(Parameters):
    model_config = ConfigDict(title="path", use_attribute_docstrings=True)


class PageQuery(Query):
    limit: int = Field(20, ge=1, le=100)
    """Items per page."""
    after: Text | None = None
    """The id of the last item of the previous page."""


class JobsQuery(PageQuery):
    kind: Literal["train", "predict"] | None = None
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"] | None = None
    queue: Text | None = None
    tag: Annotated[str, Field(max_length=201, pattern=r"^[^\x00-\x1f\x7f:]+:[^\x00-\x1f\x7f]+$")] | None = None
    """`key:value`"""
    name: Text | None = None
    dataset: Text | None = None
    """Only jobs that use the version of a data set with this id."""
    trials: bool = True
    """With `false` the trials of searches are left out."""
    full: bool = False
    """Include the spec of each job."""


class SubmitQuery(Query):
    dry_run: bool = False
    """Only check the request and say what it would do. The answer is 200, and nothing is stored."""


class JobQuery(Query):
    wait: float = Field(0, ge=0, le=60, allow_inf_nan=False)
    """Seconds to wait for a change before answering."""


class EpochsQuery(Query):
    after: int = Field(0, ge=0, le=MAX_INTEGER)
    limit: int = Field(1000, ge=1, le=10_000)
    fold: int | None = Field(None, ge=1, le=MAX_INTEGER)
    """Only the epochs of this fold; one more than the number of folds is the final model."""


class EventsQuery(Query):
    after: int = Field(0, ge=0, le=MAX_ID)
    """The id of the last event of the previous page."""
    limit: int = Field(100, ge=1, le=1000)


class JobStreamQuery(Query):
    event: int = Field(0, ge=0, le=MAX_ID)
    """Begin after this event."""
    line: int = Field(0, ge=0, le=MAX_ID)
    """Begin after this line of the log."""
    epoch: int = Field(0, ge=0, le=MAX_INTEGER)
    """Begin after this epoch."""
    step: int = Field(0, ge=0, le=MAX_ID)
    """Begin after this step."""


class StreamHeader(Header):
    last_event_id: Annotated[str, Field(max_length=1000)] | None = Field(None, alias="Last-Event-ID")
    """The id of the last message that you have; the stream goes on after it."""


class LogsQuery(Query):
    after: int = Field(0, ge=0, le=MAX_ID)
    """The number of the last line of the previous page."""
    limit: int = Field(1000, ge=1, le=2000)


class StepsQuery(Query):
    points: int = Field(500, ge=2, le=10_000)
    """The most points to return; longer series are thinned out evenly."""
    fold: int | None = Field(None, ge=1, le=MAX_INTEGER)
    """Only the steps of this fold; one more than the number of folds is the final model."""
    first: int = Field(1, ge=1, le=MAX_ID)
    """No step before this one."""
    last: int | None = Field(None, ge=1, le=MAX_ID)
    """No step after this one."""


class CurvesQuery(Query):
    jobs: Annotated[str, Field(pattern=r"^job_[0-9a-z]{26}(,job_[0-9a-z]{26}){0,99}$")]
    """Ids of at most 100 jobs, with commas between them. Jobs that are not there are left out."""
    points: int = Field(32, ge=2, le=100)
    """The most epochs of each job; they are spread evenly."""


class UploadPath(Path):
    upload_id: str


class BeginUploadQuery(Query):
    bytes: int = Field(ge=1, le=MAX_ID)
    """How many bytes the file has."""


class ContinueUploadQuery(Query):
    offset: int = Field(ge=0, le=MAX_ID)
    """How many bytes of the file were sent before."""


class ColumnsQuery(Query):
    file: Text | None = None
    """The name of the file on the sender's side. Its ending tells formats apart whose contents look alike."""
    layout: Literal["wide", "long", "files", "text"] | None = None
    """Of a table: `wide` (a row is a sequence), `long` (a row is a step), `files` (a file is a sequence), `text` (a row
    is a text). The fields below name columns: one name, names with commas between them, or a JSON array of names. The
    service infers what is missing."""
    group: Columns | None = None
    """The columns that name the sequence, or series, of a row."""
    order: Text | None = None
    """The column that orders the steps of a sequence."""
    features: Columns | None = None
    """The columns that a model reads at each step."""
    static: Columns | None = None
    """The columns that have one value for each sequence."""
    text: Text | None = None
    """The column of texts."""
    target: Columns | None = None
    """The columns to predict."""
    known_future: Columns | None = None
    """The features whose values are known ahead of time."""
    weight: Text | None = None
    """The column with the weight of each sequence in the loss."""
    split: Text | None = None
    """The column that says train, validation or test for each sequence."""

    def schema_document(self) -> dict[str, Any]:
        """What the sender says of the columns."""
        return self.model_dump(exclude={"name", "file", "upload", "raw"}, exclude_none=True)


class UploadQuery(ColumnsQuery):
    name: Annotated[str, AfterValidator(_dataset_name)]
    """The data set's name; another upload with this name and other content makes its next version."""

    upload: Text | None = None
    """An upload whose bytes are taken; the request then has no body."""
    raw: bool = False
    """Keep the file as it came, for jobs of the kind `predict`, which read it as the data of their model was read. It
    needs no target column. It is not checked, and no job can train on it."""


class DatasetsQuery(PageQuery):
    name: Text | None = None
    """Only the versions of this name."""


class SubmitHeader(Header):
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        None, alias="Idempotency-Key"
    )
    """Any string of your own. A second request with the same key and body gets the first one's answer."""


class InboxQuery(Query):
    after: str | None = Field(None, max_length=1000)
    """The id of the last file of the previous page."""
    limit: int = Field(100, ge=1, le=1000)


class AuditQuery(Query):
    after: int | None = Field(None, ge=1, le=MAX_ID)
    """The id of the last entry of the previous page."""
    limit: int = Field(100, ge=1, le=1000)


class KeyPath(Path):
    key_id: str


class WebhookPath(Path):
    webhook_id: str


class DeliveryPath(WebhookPath):
    delivery_id: str


class JobPath(Path):
    job_id: str


class BatchPath(Path):
    batch_id: str


class SearchPath(Path):
    search_id: str


class SchedulePath(Path):
    schedule: str
    """The name or id of the schedule."""


class SchedulesQuery(PageQuery):
    after: Text | None = None
    """The name of the last schedule of the previous page."""


class CheckpointPath(JobPath):
    step: int = Field(ge=0, le=MAX_ID)


class FilePath(JobPath):
    file: str


class ModelsQuery(PageQuery):
    after: Text | None = None
    """The name of the last model of the previous page."""


class ModelVersionsQuery(Query):
    after: int | None = Field(None, ge=1, le=MAX_INTEGER)
    """The number of the last version of the previous page."""
    limit: int = Field(20, ge=1, le=100)


class ModelPath(Path):
    model: str


class ModelVersionPath(ModelPath):
    ref: str
    """A number, an alias, or `latest`."""


class AliasPath(ModelPath):
    alias: str
    """The alias, for example `production`."""


class DatasetPath(Path):
    dataset: str
    """An id, `name`, `name@3` or `name@latest`."""


def moment(seconds: float) -> datetime:
    """Database time, seconds since 1970, as a UTC datetime."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_or_none(seconds: float | None) -> datetime | None:
    """The same where there may be none."""
    return None if seconds is None else moment(seconds)
