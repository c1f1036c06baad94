"""What one pool process works with: engine, storage, settings, GPU and spare trainer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.engine import Engine

from services.blobs.storage import Storage
from services.jobs.retraining import Baseline
from services.orm import Checkpoint, Job
from services.searches.comparison import Comparison
from services.settings import Settings
from services.training.messages import Selection
from worker.attempt.spare import Spares
from worker.drain import Drain
from worker.gpu.devices import Gpu


class Activity:
    """The last doorbell and the work of the process: written by the working thread, read by the heartbeat."""

    def __init__(self) -> None:
        self.doorbell_at: float | None = None
        """When the last doorbell arrived, by the monotonic clock in seconds; None before the first."""
        self.job_id: str | None = None
        self.is_busy = False
        self._idle_since = time.monotonic()

    def begin(self) -> None:
        """A doorbell arrived; the process now looks for work."""
        self.doorbell_at = time.monotonic()
        self.is_busy = True

    def end(self) -> None:
        """The process has no more work."""
        self._idle_since = time.monotonic()
        self.is_busy = False

    def idle_seconds(self) -> float:
        """Seconds for which the process has had no work and received no doorbell."""
        return 0.0 if self.is_busy else time.monotonic() - self._idle_since


@dataclass(frozen=True)
class Slot:
    """What one pool process works with, made after the fork; it runs one attempt at a time."""

    settings: Settings
    engine: Engine
    storage: Storage
    spares: Spares
    drain: Drain
    worker: str
    """Its name, which no other process has or had: what is claimed under it is this process's."""
    stop_seconds: float = 20.0
    """How long a trainer may take to stop when asked to, a checkpoint included, before it is killed."""
    store_wait_seconds: float = 600.0
    """How long an attempt waits for an object store that is away, before it begins or to bring in its result."""
    activity: Activity = field(default_factory=Activity)
    gpu: Gpu = field(default_factory=Gpu)

    def may_claim(self) -> bool:
        """Whether the worker may claim a job: it is not shutting down, and its device works."""
        if (trouble := self.spares.trouble()) is not None:
            self.gpu.lose(trouble)
        return not self.drain and self.gpu.look()


@dataclass(frozen=True)
class Claim:
    """A job that was claimed, with what else its attempt needs from the database."""

    job: Job
    dataset_sha256: str | None
    checkpoint_step: int | None
    """Of the newest checkpoint that is registered. Files beyond it may lie in the folder, left by an attempt that died
    before its last events were written; going on from those would leave a gap in the history."""
    at: float
    """When, by the monotonic clock; the lease is counted from here."""
    checkpoints: Sequence[Checkpoint] = ()
    """All that are registered, oldest first."""
    baselines: Mapping[str, Baseline | None] | None = None
    """Of a retraining: the versions that it begins with and has to beat. Of a job that predicts: its model."""
    ending: str | None = None
    """Of a data set that was kept as it came: the ending of its name."""
    is_unchecked: bool = False
    """Whether the data set was kept as it came."""
    comparison: Comparison | None = None
    """Of a trial whose search stops trials early."""
    selection: Selection | None = None
    """Of the final model of a search: how its spec was selected."""
