"""One attempt at a job, from claim to end: the trainer trains, the supervisor writes down what it says.

The supervisor holds the lease. What it writes is fenced by the attempt's number, each batch of events in a short
transaction of its own; a write that is refused means that the job is another's by now, and the trainer is killed. A
database that cannot answer kills no run: events wait until it can, or until the lease is nearly over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing

from services import db, faults, logs
from services.datasets import checking, versions
from services.errors import LeaseLost, NotFound, Unavailable
from services.jobs import attempts, control, predictions, progress, retraining
from services.jobs.leases import Lease
from services.jobs.retraining import Baseline
from services.searches import final
from services.searches.comparison import comparison
from services.states import TERMINAL, DatasetStatus, Kind, Reason
from services.training.messages import File, Order, SavedModel
from services.upkeep import leftovers
from worker.attempt.conversation import Attempt
from worker.attempt.slot import Claim, Slot

log = logging.getLogger(__name__)


def claims(slot: Slot, queue: str) -> Iterator[Claim]:
    """What there is to do: all of `queue`, best first, then one job of each other queue whose bell may have been lost.

    The caller works each off before it asks for the next. Raises Unavailable.
    """
    settle(slot)
    while slot.may_claim() and (claimed := claim(slot, queue)) is not None:
        yield claimed
    for other in slot.settings.queue_names:
        if other != queue and slot.may_claim() and (claimed := claim(slot, other)) is not None:
            yield claimed


def settle(slot: Slot) -> None:
    """Give back what an earlier claim took whose answer was lost on the way: this process holds no job now.

    Raises Unavailable.
    """
    with db.read_scope(slot.engine) as session:
        orphans = attempts.orphans(session, slot.worker)
    for lease in orphans:
        log.warning(
            "%s: the claim of attempt %d was committed but its answer was lost; returning the job",
            lease.job_id,
            lease.attempt,
        )
        try:
            with db.session_scope(slot.engine) as session:
                attempts.give_back(session, lease)
        except LeaseLost:
            pass  # the scheduler was faster


def claim(slot: Slot, queue: str) -> Claim | None:
    """Take the best runnable job of the queue; None when there is none. Raises Unavailable."""
    at = time.monotonic()
    with db.session_scope(slot.engine) as session:
        job = attempts.claim(session, queue, worker=slot.worker, lease_seconds=slot.settings.lease_seconds)
        if job is None:
            return None
        dataset = None if job.dataset_id is None else versions.get(session, job.dataset_id)
        ending = None if dataset is None else predictions.ending_of(dataset)
        is_raw = dataset is not None and dataset.status == DatasetStatus.RAW
        checkpoints = progress.checkpoints(session, job.id) if job.attempt > 1 else ()
        baselines = (predictions.models if job.kind == Kind.PREDICT else retraining.baselines)(session, job)
        sha256 = None if dataset is None else dataset.sha256
        compared, selection = comparison(session, job), final.selection(session, job)
    faults.point("supervisor.claimed")
    newest = checkpoints[-1].step if checkpoints else None
    return Claim(job, sha256, newest, at, checkpoints, baselines, ending, is_raw, compared, selection)


def supervise(slot: Slot, claim: Claim) -> None:
    """Run the attempt to its end, whatever that is. Never raises for what the job did.

    All that is logged meanwhile carries the ids of the job, of the attempt and of the request that submitted it.
    """
    with logs.about(job_id=claim.job.id, attempt=claim.job.attempt, request_id=claim.job.request_id):
        _supervise(slot, claim)


def _supervise(slot: Slot, claim: Claim) -> None:
    job = claim.job
    log.info("%s: attempt %d begins", job.id, job.attempt)
    slot.activity.job_id = job.id
    trainer = slot.spares.take()
    try:
        with closing(Attempt(slot, claim, trainer, order(slot, claim))) as attempt:
            attempt.run()
        if attempt.device_trouble is not None:
            slot.gpu.lose(attempt.device_trouble)
        _tidy(slot, job.id)
    except LeaseLost as error:
        log.warning("%s: attempt %d has lost its lease: %s", job.id, job.attempt, error)
    except Exception as error:  # the one edge: a mistake of ours must not take the pool process along
        log.exception("%s: unexpected error in attempt %d", job.id, job.attempt)
        _give_up(slot, Lease.of(job), f"{type(error).__name__}: {error}.")
    finally:
        trainer.end()
        slot.activity.job_id = None
        if not slot.drain and slot.gpu.trouble is None:
            slot.spares.prepare()


def _tidy(slot: Slot, job_id: str) -> None:
    """Leave no files of a job that has ended, nor of those that went on elsewhere, where an object store has them."""
    if (store := slot.storage.objects) is None:
        return
    try:
        with db.read_scope(slot.engine) as session:
            has_ended = control.revision(session, job_id)[1] in TERMINAL and not control.unshared(session, [job_id])
        if has_ended:
            slot.storage.remove_job(job_id)
        if slot.storage.is_due():
            log.info(
                "deleted %d data sets and jobs from the cache", leftovers.sweep_cache(slot.engine, slot.storage, store)
            )
    except (NotFound, Unavailable) as error:
        log.warning("%s: cannot delete its files from the cache now: %s", job_id, error)


def order(slot: Slot, claim: Claim) -> Order:
    """The order for the trainer. The trainer checks the checkpoint itself, and uses an earlier one if it is damaged."""
    job, sha = claim.job, claim.dataset_sha256
    return Order(
        spec=job.spec,
        data=None if sha is None else str(slot.storage.dataset_path(sha)),
        data_sha256=sha,
        directory=str(slot.storage.job_dir(job.id)),
        resume=_resume(slot, claim),
        device=slot.settings.device,
        job=job.id,
        attempt=job.attempt,
        baselines=None if claim.baselines is None else _models(slot, claim.baselines),
        ending=claim.ending,
        allowance=checking.allowance(slot.settings.max_dataset_bytes) if claim.is_unchecked else None,
        pieces=_pieces(claim),
        rungs=() if claim.comparison is None else claim.comparison.rungs,
        selection=claim.selection,
    )


def _resume(slot: Slot, claim: Claim) -> str | None:
    """The checkpoint from which the attempt goes on."""
    if claim.checkpoint_step is None or claim.job.kind == Kind.PREDICT:
        return None
    return str(slot.storage.checkpoint_files(claim.job.id, claim.checkpoint_step)[0])


def _pieces(claim: Claim) -> tuple[File, ...]:
    """The registered files of answers, by which the trainer of a job that predicts knows its own."""
    if claim.job.kind != Kind.PREDICT:
        return ()
    files = [file for row in claim.checkpoints for file in row.files]
    return tuple(File(file["name"], file["bytes"], file["sha256"]) for file in files)


def _models(slot: Slot, baselines: Mapping[str, Baseline | None]) -> dict[str, SavedModel | None]:
    """By role, the name of each model and the folder where its files are; no folder where it is gone."""
    return {role: None if one is None else _model(slot, one) for role, one in baselines.items()}


def _model(slot: Slot, one: Baseline) -> SavedModel:
    return SavedModel(one.name, str(slot.storage.job_dir(one.job_id)) if one.job_id else None)


def _give_up(slot: Slot, lease: Lease, message: str) -> None:
    """Fail the attempt for something that happened outside its trainer."""
    try:
        with db.session_scope(slot.engine) as session:
            attempts.fail(
                session, lease, Reason.INTERNAL, message, retry=True, retry_seconds=slot.settings.retry_seconds
            )
    except (LeaseLost, Unavailable) as error:
        log.warning("%s: cannot record the failure, the scheduler will recover the job: %s", lease.job_id, error)
