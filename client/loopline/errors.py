"""All errors that the client raises on purpose.

    LooplineError
    ├── ServiceUnreachable     nothing answers at the address, or not in time
    ├── ServiceError           the service failed, or it is not Loopline
    ├── BadRequest             the request is invalid; `problems` lists every mistake
    ├── NotAllowed             the API key is missing, wrong, or may not do this
    ├── NotFound               no such job, data set, model or preset
    ├── Conflict               the request does not fit the current state
    ├── JobFailed              the job failed; it is in `job`
    ├── JobCancelled           the job was cancelled; it is in `job`
    ├── WaitTimeout            the job has not ended in time; it continues, and is in `job`
    └── DownloadFailed         the download is incomplete, or not safe to unpack

`str(error)` is one or more sentences. Below them are the problems that the sentences do not mention, each with its JSON
pointer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loopline import text

if TYPE_CHECKING:
    from loopline.batch import Batch
    from loopline.job import Job
    from loopline.search import Search


@dataclass(frozen=True)
class Problem:
    """One problem of a request: where it is (a JSON pointer, RFC 6901), and what is allowed there."""

    pointer: str
    detail: str

    def __str__(self) -> str:
        return f"{self.pointer}: {self.detail}" if self.pointer else self.detail


class LooplineError(Exception):
    """Something went wrong.

    status: the HTTP status, where there was an answer. code: the service's machine-readable name for the error.
    request_id: what to quote to whoever runs the service. retry_after_seconds: how long it asked to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        problems: Sequence[Problem] = (),
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.message = text.lines(message)  # much of it may be a server's own words, and tracebacks go to terminals too
        super().__init__(self.message)
        self.status = status
        self.code = code
        self.problems = tuple(problems)
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        problems = [
            text.lines(str(problem)) for problem in self.problems if text.lines(problem.detail) not in self.message
        ]
        return "\n".join([self.message, *(f"  {problem}" for problem in problems)])


class ServiceUnreachable(LooplineError):
    """Nothing answers at the address, or not in time."""


class ServiceError(LooplineError):
    """Something answers, but it failed, or it is not Loopline."""


class BadRequest(LooplineError):
    """The request cannot be right, whatever the state of the service."""


class NotAllowed(LooplineError):
    """The API key is missing, wrong, or may not do this."""


class NotFound(LooplineError):
    """There is nothing with this id or name."""


class Conflict(LooplineError):
    """The request does not fit the present state."""


class DownloadFailed(LooplineError):
    """What came was not whole, or not safe to unpack."""


class _Ended(LooplineError):
    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message)
        self.job = job


class JobFailed(_Ended):
    """The job failed."""


class JobCancelled(_Ended):
    """The job was cancelled."""


class WaitTimeout(LooplineError, TimeoutError):
    """The job, batch or search was still going on when the time to wait for it was over."""

    def __init__(self, message: str, job: Job | Batch | Search) -> None:
        super().__init__(message)
        self.job = job
