"""Every error that Loopline raises on purpose, in one tree.

    LooplineError
    ├── NotFound
    │   ├── JobNotFound
    │   ├── BatchNotFound
    │   ├── DatasetNotFound
    │   ├── UploadNotFound
    │   ├── CheckpointNotFound
    │   ├── ModelNotReady
    │   ├── AnswersNotReady        of a job that predicts
    │   ├── ModelNotFound          of the registry
    │   ├── ScheduleNotFound
    │   ├── SearchNotFound
    │   ├── TenantNotFound
    │   ├── KeyNotFound
    │   ├── WebhookNotFound
    │   └── DeliveryNotFound       a message for a webhook
    ├── Invalid                    the request cannot be right, whatever the state of the service
    │   ├── SpecInvalid            every problem at once, each with a JSON pointer
    │   ├── ScheduleInvalid        every problem at once, those of its specs too
    │   ├── DatasetInvalid         says which rows
    │   ├── InputInvalid           of a prediction
    │   ├── AddressRefused         of a webhook
    │   └── BadRequest             a parameter or header
    ├── Conflict                   right in itself, but not now
    │   ├── IllegalMove
    │   ├── JobNotEnded
    │   ├── IdempotencyConflict
    │   ├── IdempotencyInFlight
    │   ├── UploadConflict
    │   ├── DatasetInUse
    │   ├── DatasetValidating
    │   ├── JobNotSucceeded
    │   ├── ModelNotFinite
    │   ├── ModelUnusable          its files are no model
    │   ├── JobRegistered
    │   ├── ModelInUse
    │   ├── AliasMoved
    │   ├── NothingBefore
    │   ├── ScheduleExists
    │   ├── ScheduleBusy
    │   ├── QuotaExceeded
    │   └── TenantExists
    ├── Unauthorized               who asks is not known
    ├── Forbidden                  who asks is known, and may not do this
    ├── CrossOrigin                a web page of another origin asks, and may change nothing
    ├── CsrfTokenWrong             a browser that is signed in asks for a change, without the token of our page
    ├── RateLimited                right in itself, but too often
    ├── TooLarge
    ├── LeaseLost                  a fenced write touched no row: this attempt no longer owns the job
    ├── Unavailable                try again later
    │   ├── Busy                   others do the same just now, and together it would be too much
    │   ├── TooManyStreams
    │   ├── SchemaMismatch         the database's schema is not this code's
    │   └── StorageUnavailable     the object store cannot answer
    └── TrainingError              raised inside a trainer
        ├── Diverged
        │   └── NotFinite          the best weights are of no use
        ├── CheckpointCorrupt
        └── OutOfMemory
            └── TooLargeToTrain

An error class's docstring is its default message. This module imports nothing of Loopline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a document: where (a JSON pointer, RFC 6901) and what is allowed there."""

    pointer: str
    detail: str

    def __str__(self) -> str:
        return f"{self.pointer or '/'}: {self.detail}"


class LooplineError(Exception):
    """Something went wrong."""

    code = "internal"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        return str(self.args[0])


class NotFound(LooplineError):
    """There is nothing with this id."""

    code = "not_found"


class JobNotFound(NotFound):
    """There is no job with this id."""

    code = "job_not_found"


class BatchNotFound(NotFound):
    """There is no batch with this id."""

    code = "batch_not_found"


class DatasetNotFound(NotFound):
    """There is no data set with this id or name."""

    code = "dataset_not_found"


class UploadNotFound(NotFound):
    """There is no upload with this id: it has ended, or was deleted. Begin again."""

    code = "upload_not_found"


class CheckpointNotFound(NotFound):
    """This job has no such checkpoint."""

    code = "checkpoint_not_found"


class ModelNotReady(NotFound):
    """This job has no model yet: it appears when the job has succeeded."""

    code = "model_not_ready"


class AnswersNotReady(NotFound):
    """This job has no answers yet: they appear when the job has succeeded."""

    code = "answers_not_ready"


class ModelNotFound(NotFound):
    """There is no model of this name, or no such version or alias of it."""

    code = "model_not_found"


class ScheduleNotFound(NotFound):
    """There is no schedule with this id or name."""

    code = "schedule_not_found"


class SearchNotFound(NotFound):
    """There is no search with this id."""

    code = "search_not_found"


class TenantNotFound(NotFound):
    """There is no tenant of this name."""

    code = "tenant_not_found"


class KeyNotFound(NotFound):
    """There is no API key with this id."""

    code = "key_not_found"


class WebhookNotFound(NotFound):
    """There is no webhook with this id."""

    code = "webhook_not_found"


class DeliveryNotFound(NotFound):
    """This webhook has no delivery with this id."""

    code = "delivery_not_found"


class Invalid(LooplineError):
    """The request is not valid."""

    code = "invalid"

    def __init__(self, message: str | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class AddressRefused(Invalid):
    """Webhooks are not sent to this address."""

    code = "address_refused"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, [Problem("/url", message or "")])


class SpecInvalid(Invalid):
    """The spec has problems."""

    code = "spec_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = len(problems)
        super().__init__(f"The spec has {count} problem{'s' if count != 1 else ''}.", problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {problem}" for problem in self.problems)])


class ScheduleInvalid(Invalid):
    """The schedule has problems."""

    code = "schedule_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = len(problems)
        super().__init__(f"The schedule has {count} problem{'s' if count != 1 else ''}.", problems)


class DatasetInvalid(Invalid):
    """The data set is not valid."""

    code = "dataset_invalid"


class InputInvalid(Invalid):
    """The model cannot take this."""

    code = "input_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("The model cannot take this.", problems)


class BadRequest(Invalid):
    """The request is not well-formed."""

    code = "bad_request"


class Conflict(LooplineError):
    """The request does not fit the present state."""

    code = "conflict"


class IllegalMove(Conflict):
    """The job's state does not allow this."""

    code = "illegal_move"


class JobNotEnded(Conflict):
    """The job may still run; cancel it and wait for its end, then delete it."""

    code = "job_not_ended"


class IdempotencyConflict(Conflict):
    """This Idempotency-Key was used before with another request; send a new key."""

    code = "idempotency_conflict"


class IdempotencyInFlight(Conflict):
    """A request with this Idempotency-Key is still under way; try again in a second."""

    code = "idempotency_in_flight"


class UploadConflict(Conflict):
    """The upload has not as many bytes as the request says, or another request is using it."""

    code = "upload_conflict"


class DatasetInUse(Conflict):
    """Jobs that are not finished use this data set; cancel them first or wait."""

    code = "dataset_in_use"


class DatasetValidating(Conflict):
    """The data set is still being checked; use it when it is ready."""

    code = "dataset_validating"


class ModelNotFinite(Conflict):
    """A loss of this model is no finite number, so its answers are of no use; train it again."""

    code = "model_not_finite"


class ModelUnusable(Conflict):
    """The files of this model cannot be used; train it again."""

    code = "model_unusable"


class JobNotSucceeded(Conflict):
    """Only a job that has succeeded has a model to register."""

    code = "job_not_succeeded"


class JobRegistered(Conflict):
    """The job is a version of a model; delete that version first."""

    code = "job_registered"


class ModelInUse(Conflict):
    """An alias points at this version of the model; move or remove the alias first."""

    code = "model_in_use"


class AliasMoved(Conflict):
    """The alias does not point at the version that was expected."""

    code = "alias_moved"


class NothingBefore(Conflict):
    """The alias pointed at no other version before."""

    code = "nothing_before"


class ScheduleExists(Conflict):
    """There is a schedule of this name already."""

    code = "schedule_exists"


class ScheduleBusy(Conflict):
    """The batch that this schedule submitted before has not ended, and its overlap is `skip`."""

    code = "schedule_busy"


class QuotaExceeded(Conflict):
    """The tenant has as much of this as it may have."""

    code = "quota_exceeded"


class TenantExists(Conflict):
    """There is a tenant of this name already."""

    code = "tenant_exists"


class Unauthorized(LooplineError):
    """This needs an API key that is valid."""

    code = "unauthorized"

    def __init__(self, message: str | None = None, *, shown: bool = True) -> None:
        super().__init__(message)
        self.shown = shown
        """Whether there was a key at all."""


class Forbidden(LooplineError):
    """The API key lacks a scope."""

    code = "forbidden"

    def __init__(self, message: str | None = None, *, scope: str = "") -> None:
        super().__init__(message)
        self.scope = scope


class CrossOrigin(LooplineError):
    """A web page of another origin may change nothing here."""

    code = "cross_origin"


class CsrfTokenWrong(LooplineError):
    """A change by a browser that is signed in needs the token of its session."""

    code = "csrf_token_wrong"


class RateLimited(LooplineError):
    """There were too many requests; wait for as long as Retry-After says."""

    code = "rate_limited"

    def __init__(self, message: str | None = None, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class TooLarge(LooplineError):
    """The request is larger than this service takes."""

    code = "too_large"


class LeaseLost(LooplineError):
    """This attempt no longer owns the job: its lease ran out or the job has ended."""

    code = "lease_lost"


class Unavailable(LooplineError):
    """The service cannot answer now; try again in a few seconds."""

    code = "unavailable"


class Busy(Unavailable):
    """Too many requests of this kind are under way; try again in a few seconds."""

    code = "busy"


class TooManyStreams(Unavailable):
    """Too many streams are open; close some, or poll instead."""

    code = "too_many_streams"


class SchemaMismatch(Unavailable):
    """The database's schema is newer than this version of Loopline; upgrade Loopline."""

    code = "schema_mismatch"


class StorageUnavailable(Unavailable):
    """The object store cannot answer now; try again in a few seconds."""

    code = "storage_unavailable"


class TrainingError(LooplineError):
    """Training stopped."""

    code = "trainer_crashed"


class Diverged(TrainingError):
    """A loss or gradient was not finite."""

    code = "diverged"
    advice = "Try a lower optimizer.lr, a max_grad_norm that is lower or set at all, or a warm-up."

    def __init__(
        self, *, epoch: int, step: int, loss: float, grad_norm: float, lr: float, summary: str | None = None
    ) -> None:
        self.summary = summary or (
            f"Training diverged at step {step} (epoch {epoch}): loss {loss:g}, gradient norm {grad_norm:g}, "
            f"learning rate {lr:g}."
        )
        """What happened, without what to do."""
        super().__init__(f"{self.summary} {self.advice}")
        self.epoch, self.step, self.loss, self.grad_norm, self.lr = epoch, step, loss, grad_norm, lr

    def add(self, *sentences: str) -> None:
        """Say more about it, before what to do."""
        self.summary = " ".join((self.summary, *sentences))
        self.args = (f"{self.summary} {self.advice}",)


class NotFinite(Diverged):
    """The best weights of a run are of no use: they, or their answers, are not finite."""

    advice = (
        "Try a lower optimizer.lr, a max_grad_norm that is lower or set at all, or data.scaling: standard where the "
        "data's values are large."
    )


class CheckpointCorrupt(TrainingError):
    """This checkpoint is not whole."""

    code = "checkpoint_corrupt"


class OutOfMemory(TrainingError):
    """The device ran out of memory; lower training.batch_size or architecture.hidden_size."""

    code = "out_of_memory_gpu"


class TooLargeToTrain(OutOfMemory):
    """The job needs more memory than its worker has."""

    code = "too_large"
