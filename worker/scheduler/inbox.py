"""Reads the inbox every LOOPLINE_RECONCILE_SECONDS, in a thread of the scheduler: files become data set versions.

A file is accepted when two passes in a row found it unchanged, so a file that is still being written is not read.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.engine import Engine

from services import db
from services.blobs import storage
from services.blobs.storage import Storage
from services.datasets import inbox
from services.datasets.inbox import MOST_FILES, Source
from services.errors import Unavailable
from services.settings import Settings

log = logging.getLogger(__name__)


@contextmanager
def watching(settings: Settings, engine: Engine) -> Iterator[None]:
    """Look into the inbox, if there is one, until the block ends."""
    source, stop = inbox.from_settings(settings), threading.Event()
    if source is not None:
        log.info("watching the inbox %s", settings.inbox)
        thread = threading.Thread(target=_run, args=(settings, engine, source, stop), name="inbox", daemon=True)
        thread.start()
    try:
        yield
    finally:
        stop.set()  # nothing waits for a file that is being read: what is not committed is taken in again


def _run(settings: Settings, engine: Engine, source: Source, stop: threading.Event) -> None:
    before: Mapping[str, str] = {}
    trouble = ""
    held = storage.from_settings(settings)
    while not stop.is_set():
        try:
            db.check_schema(engine)
            before = look(settings, engine, held, source, before)
            trouble = ""
        except (Unavailable, OSError) as error:
            if str(error) != trouble:  # once, and not every few seconds
                log.warning("cannot read the inbox: %s", error)
            trouble = str(error)
        except Exception:
            log.exception("cannot read the inbox")
        stop.wait(settings.reconcile_seconds)


def look(
    settings: Settings, engine: Engine, held: Storage, source: Source, before: Mapping[str, str]
) -> Mapping[str, str]:
    """Take in what is new and was the same at the look `before`; what there is now, by place.

    Raises:
        Unavailable: the database or the object store cannot answer.
        OSError: the folder cannot be read.
    """
    entries = [entry for entry, _ in zip(source.entries(), range(MOST_FILES), strict=False)]
    with db.read_scope(engine) as session:
        new, gone = inbox.fresh(session, entries)
    if gone:
        with db.session_scope(engine) as session:
            inbox.forget(session, gone)
    for entry in new:
        if before.get(entry.place) != entry.stamp:
            continue
        try:
            why = inbox.ingest(engine, held, source, entry, settings)
        except FileNotFoundError:
            continue
        except OSError as error:  # the next file may be another matter; this one is tried again at the next look
            log.warning("cannot read %s in the inbox, will try again: %s", entry.place, error)
            continue
        if why is None:
            log.info("%s became a version of the data set %s", entry.place, entry.name)
        else:
            log.warning("%s is not a valid data set: %s", entry.place, why)
    return {entry.place: entry.stamp for entry in entries}
