"""Checks uploads that take longer than their sender waited, in threads of the scheduler. Any number may run.

Each check has a process of its own, and a lease in the database. A process that dies loses its checks to others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, faults
from services.blobs import storage, transfers
from services.blobs.storage import Incoming, Storage
from services.blobs.transfers import Gone
from services.datasets import receiving, validation
from services.datasets.checking import Checker
from services.datasets.receiving import Received, Source
from services.datasets.validation import Claim
from services.errors import (
    Busy,
    DatasetInvalid,
    Invalid,
    LeaseLost,
    LooplineError,
    QuotaExceeded,
    TenantNotFound,
    Unavailable,
)
from services.orm import Dataset
from services.settings import Settings
from services.training.files.npz import Limits

LOOK_SECONDS = 1.0
MOST = 2
"""Checks that a process does at once."""
PAUSE_SECONDS = 5.0
"""Before a check is tried again that had no memory, no store or no disk."""
MOST_WRITES = 10
"""Tries to write a result while the database is away."""
LEAVE_SECONDS = 3.0
"""The time to give back what is under way when the process ends."""

log = logging.getLogger(__name__)
T = TypeVar("T")


@contextmanager
def checking(settings: Settings, engine: Engine) -> Iterator[None]:
    """Check what waits, in threads, until the block ends."""
    checks = Checks(settings, engine)
    thread = threading.Thread(target=checks.run, name="checks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        checks.end()
        thread.join(LEAVE_SECONDS)


class Checks:
    """What one process is checking now."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings, self._engine = settings, engine
        self._storage = storage.from_settings(settings)
        self._lock = threading.Lock()
        self._under_way: set[Check] = set()
        self._wake = threading.Event()
        self._stop = threading.Event()

    def run(self) -> None:
        """Look for checks every second, and whenever one has ended, until `end`."""
        while not self._stop.is_set():
            self._wake.clear()
            try:
                db.check_schema(self._engine)
                while not self._stop.is_set() and self.check_one():
                    pass
            except Unavailable as error:
                log.warning("cannot look for data sets to check: %s", error)
            except Exception:
                log.exception("cannot look for data sets to check")
            self._wake.wait(LOOK_SECONDS)

    def check_one(self) -> bool:
        """Claim a check and do it in a thread of its own; False when none is due, or enough are under way.

        Raises:
            Unavailable: the database cannot answer.
        """
        if self.under_way >= MOST:
            return False
        with db.read_scope(self._engine) as session:
            if not validation.any_due(session):
                return False
        with db.session_scope(self._engine) as session:
            claim = validation.claim(session, self._settings.lease_seconds)
        if claim is None:
            return False
        faults.point("check.claimed")
        check = Check(self._settings, self._engine, self._storage, claim)
        with self._lock:
            self._under_way.add(check)
        if self._stop.is_set():
            check.abandon()
        threading.Thread(target=self._do, args=(check,), name=f"check {claim.reference}", daemon=True).start()
        return True

    @property
    def under_way(self) -> int:
        """How many checks this process does now."""
        with self._lock:
            return len(self._under_way)

    def end(self) -> None:
        """End the checks that are under way, and give them back."""
        self._stop.set()
        with self._lock:
            under_way = [*self._under_way]
        for check in under_way:
            check.abandon()
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.under_way and time.monotonic() < deadline:
            self._wake.wait(max(0.0, deadline - time.monotonic()))
            self._wake.clear()
        self._wake.set()

    def _do(self, check: Check) -> None:
        try:
            check.run()
        except Exception:  # the lease expires, and it is tried again, MOST_LOST times
            log.exception("cannot check the data set %s", check.claim.reference)
        finally:
            with self._lock:
                self._under_way.discard(check)
            self._wake.set()


class Check:
    """One attempt to check a data set."""

    def __init__(self, settings: Settings, engine: Engine, held: Storage, claim: Claim) -> None:
        self.claim = claim
        self._settings, self._engine, self._storage = settings, engine, held
        self._checker = Checker()
        self._abandoned = threading.Event()
        self._ended = threading.Event()
        self._lost = False
        """Whether another has claimed the check, or its data set was deleted."""

    def abandon(self) -> None:
        """End it without a result."""
        self._abandoned.set()
        self._checker.close()

    def run(self) -> None:
        """Check the file and write the result."""
        claim, began_at = self.claim, time.monotonic()
        renewing = threading.Thread(target=self._renew, name=f"lease {claim.reference}", daemon=True)
        renewing.start()
        try:
            made = self._result()
            log.info("%s is %s, checked in %.0f s", claim.reference, made.status, time.monotonic() - began_at)
        except LeaseLost as error:
            log.info("%s", error)
        except (Unavailable, OSError) as error:
            self._give_back(error)
        finally:
            self._ended.set()
            self._checker.close()
            renewing.join()
        self._write(lambda session: validation.discard_upload(session, self._storage, claim))

    def _renew(self) -> None:
        while not self._ended.wait(self._settings.renew_seconds):
            try:
                with db.session_scope(self._engine) as session:
                    is_ours = validation.renew(session, self.claim, self._settings.lease_seconds)
            except Unavailable as error:  # the result is fenced: it counts, unless another has claimed the check
                log.warning("cannot renew the lease on the check of %s: %s", self.claim.reference, error)
                continue
            if not is_ours or self._abandoned.is_set():
                self._lost = not is_ours
                self.abandon()

    def _result(self) -> Dataset:
        """Raises LeaseLost, Unavailable, OSError."""
        if self.claim.lost >= validation.MOST_LOST:
            return self._rejected(validation.given_up())
        with self._storage.work() as brought, self._storage.work() as work:
            try:
                upload = self._received(brought, work)
                faults.point("check.ended")
                return self._write(lambda session: validation.finish(session, self.claim, upload))
            except Gone as error:
                return self._rejected(DatasetInvalid(str(error)))
            except (Invalid, QuotaExceeded, TenantNotFound) as error:
                return self._rejected(error)

    def _received(self, brought: Path, work: Path) -> Received:
        claim = self.claim
        if self._abandoned.is_set():
            raise Unavailable("The check was ended.")
        path = transfers.fetch_upload(self._storage, claim.sha256, brought, lambda: not self._abandoned.is_set())
        source = Source(Incoming(path, claim.bytes, claim.sha256), claim.file_name, claim.columns)
        limits = Limits(max_bytes=self._settings.max_dataset_bytes)
        return receiving.checked(self._storage, source, work, limits, checker=self._checker)

    def _rejected(self, why: LooplineError) -> Dataset:
        if self._abandoned.is_set():  # its process was ended, and that says nothing about the file
            raise Unavailable("The check was ended.")
        return self._write(lambda session: validation.reject(session, self.claim, why))

    def _give_back(self, why: Exception) -> None:
        """Let the check be done by another, or later."""
        pause_seconds = 0.0
        if self._lost:
            log.info("the check of %s was taken over, or the data set was deleted", self.claim.reference)
        elif not self._abandoned.is_set():
            level = logging.INFO if isinstance(why, Busy) else logging.WARNING  # others have the memory
            log.log(level, "cannot check %s now, will try again: %s", self.claim.reference, why)
            pause_seconds = PAUSE_SECONDS
        self._write(lambda session: validation.release(session, self.claim, pause_seconds=pause_seconds))

    def _write(self, act: Callable[[Session], T]) -> T:
        """One transaction, tried again while the database or the store is away: a long check must not be lost."""
        for _ in range(MOST_WRITES - 1):
            try:
                with db.session_scope(self._engine) as session:
                    return act(session)
            except Unavailable as error:
                log.warning("cannot write what became of %s, will try again: %s", self.claim.reference, error)
            self._abandoned.wait(self._settings.renew_seconds)
        with db.session_scope(self._engine) as session:
            return act(session)
