"""Server-sent events: answers that stay open, and one look at the database that serves all of them.

The body of such an answer is a `Stream`. Its next part is empty if there is nothing to send now; then the server gives
its thread to other requests, and asks again after the stream has called `wake` (`pace.py`). So an idle stream costs a
connection and no thread. A server that does not hold streams gives no `wake`; its answer has what there is now, and
ends. A client comes back by itself, with the id of the last message that it got.

One thread per process asks every LOOK_SECONDS which jobs have changed, and wakes the streams that are about them. Each
stream then reads its own rows, from its own place on. If several are at the same place of a job, only one reads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from services.errors import LooplineError, TooManyStreams
from services.jobs import changes

STREAM, WAKE = "loopline.stream", "loopline.wake"
"""In the environ of a request: whether its answer is a stream, and what lets the server ask again for its next part."""
LOOK_SECONDS = 0.15
"""Half of the 300 ms within which a first step must be on the screen. A look after a pause costs half a millisecond,
with cold caches."""
PAUSE_SECONDS = 1.0
"""After a look that failed."""
PROGRESS_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
RETRY_MILLISECONDS = 2000
"""After so long a browser comes back."""
MOST_EVENTS = 1000
"""That are looked at at once."""
MOST_STREAMS, MOST_OF_ONE = 200, 64
"""Open streams in a process, and of one key among them."""
MOST_SHARED, MOST_SHARED_BYTES, LOCKS = 64, 1 << 16, 16
MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": still here\n\n"

Wake = Callable[[], None]
T = TypeVar("T")

log = logging.getLogger(__name__)


class Turn(NamedTuple):
    """What a stream sends next."""

    text: bytes
    more: bool = False
    """There is more already."""
    ended: bool = False
    """There never will be more."""


class Reader(Protocol):
    """Reads what a stream is about; each time from where it stopped."""

    tenant: str
    job_id: str | None
    """None: about all jobs of the tenant."""

    @property
    def revision(self) -> int:
        """Of the job, as it was read last."""
        ...

    def notice(self, job_ids: Collection[str]) -> None:
        """These running jobs have changed."""
        ...

    def read(self) -> Turn: ...


def message(name: str, cursor: object, data: bytes) -> bytes:
    """One event of a stream. `data` is JSON on one line."""
    return f"id: {cursor}\nevent: {name}\ndata: ".encode() + data + b"\n\n"


class Stream:
    """The body of an answer: its parts, of which an empty one means that there is nothing to send now."""

    def __init__(
        self, streams: Streams, who: str, reader: Reader, first: Turn, check: Callable[[], object], wake: Wake | None
    ) -> None:
        self.who, self.reader = who, reader
        self._streams, self._next, self._check, self._wake = streams, first, check, wake
        self._has_begun = False
        self._has_news = reader.job_id is None  # whatever happened before `Streams` looks for it
        self._has_progress, self._progress_at = False, 0.0
        self._beats_at = time.monotonic() + HEARTBEAT_SECONDS

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        if not self._has_begun:
            self._has_begun = True
            return f"retry: {RETRY_MILLISECONDS}\n\n".encode() + self._next.text
        if (self._next.more or self._has_news) and not self._is_over() and (text := self._read()):
            return text
        if time.monotonic() >= self._beats_at and not self._is_over() and self._may_go_on():
            self._beats_at = time.monotonic() + HEARTBEAT_SECONDS
            return HEARTBEAT
        if self._is_over() or self._wake is None:
            raise StopIteration
        return b""

    def _is_over(self) -> bool:
        return self._next.ended or self._streams.closing()

    def _may_go_on(self) -> bool:
        try:
            self._check()
        except LooplineError as error:
            log.debug("a stream ends: %s", error)
            self._next = Turn(b"", ended=True)
        return not self._next.ended

    def _read(self) -> bytes:
        self._has_news = False  # before reading: what changes meanwhile is news again
        if self._may_go_on():
            try:
                self._next = self.reader.read()
            except (LooplineError, DBAPIError) as error:
                log.debug("a stream ends: %s", error)
                self._next = Turn(b"", ended=True)
        return self._next.text

    def look_at(self, revision: int | None, now: float) -> None:
        """Send what is new, if the job has another revision; and a heartbeat, if it is time."""
        self._tell(revision != self.reader.revision, now)

    def look_at_jobs(self, has_moved: bool, job_ids: Collection[str], now: float) -> None:
        """The same of a stream about all jobs of a tenant: whether one has another state, and which have got further.
        That a job got further is told once in PROGRESS_SECONDS."""
        if job_ids:
            self.reader.notice(job_ids)
            self._has_progress = True
        is_due = self._has_progress and now >= self._progress_at
        if is_due or has_moved:
            self._has_progress, self._progress_at = False, now + PROGRESS_SECONDS
        self._tell(is_due or has_moved, now)

    def _tell(self, has_news: bool, now: float) -> None:
        if has_news and not self._has_news:
            self._has_news = True
            self._call()
        elif now >= self._beats_at:
            self._call()

    def _call(self) -> None:
        if self._wake is not None:
            self._wake()

    def close(self) -> None:
        """The answer has ended, or its client is gone."""
        self._streams.drop(self)


class Shared:
    """Turns that were read lately, for other streams at the same place of the same job: one of them reads."""

    def __init__(self) -> None:
        self._turns: OrderedDict[Hashable, Any] = OrderedDict()
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def read(self, place: Hashable, read: Callable[[], tuple[Turn, T]]) -> tuple[Turn, T]:
        """What `read` gives, or gave at this place. It is what comes next there, even if more has come since."""
        with self._locks[hash(place) % LOCKS]:
            if (known := self._turns.get(place)) is not None:
                return cast(tuple[Turn, T], known)
            found = read()
            if found[0].text and len(found[0].text) <= MOST_SHARED_BYTES:
                self._turns[place] = found
                if len(self._turns) > MOST_SHARED:
                    self._turns.popitem(last=False)
            return found


class Streams:
    """The open streams of this process. Making it starts nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: set[Stream] = set()
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._place = changes.Place()
        """Up to where changes of state were looked for."""
        self.shared = Shared()
        self._revisions: dict[str, int] = {}
        """Of running jobs, as they were last seen."""
        self.closing: Callable[[], bool] = lambda: False

    def open(self, who: str, reader: Reader, first: Turn, *, check: Callable[[], object], wake: Wake | None) -> Stream:
        """A stream that begins with `first`. `check` raises a LooplineError when `who` may read no more.

        Raises:
            TooManyStreams: too many are open.
        """
        stream = Stream(self, who, reader, first, check, wake)
        if wake is None:
            return stream
        place = changes.newest(self._engine) if reader.job_id is None else None
        with self._lock:
            if self._held[who] >= MOST_OF_ONE or len(self._open) >= MOST_STREAMS:
                whose = "This key has" if self._held[who] >= MOST_OF_ONE else "This service has"
                raise TooManyStreams(f"{whose} too many streams open: close some, or poll instead (`wait`).")
            self._open.add(stream)
            self._held[who] += 1
            if place is not None and not any(other.reader.job_id is None for other in self._open - {stream}):
                self._place = place  # nobody has looked for a while
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
                self._thread.start()
        return stream

    def drop(self, stream: Stream) -> None:
        """Forget a stream; more than once does no harm."""
        with self._lock:
            if stream in self._open:
                self._open.remove(stream)
                self._held[stream.who] -= 1
                if not self._held[stream.who]:
                    del self._held[stream.who]

    def _run(self) -> None:
        while (streams := self._all()) is not None:
            pause = LOOK_SECONDS
            try:
                self._look(streams)
            except (LooplineError, DBAPIError) as error:
                log.warning("cannot look for changes for %d streams: %s", len(streams), error)
                pause = PAUSE_SECONDS
            except Exception:  # or no stream of this process would tell anything any more
                log.exception("cannot look for changes for %d streams", len(streams))
                pause = PAUSE_SECONDS
            time.sleep(pause)

    def _all(self) -> Sequence[Stream] | None:
        """All of them; None if there is none, and then the thread has to end."""
        with self._lock:
            if self._open and not self.closing():
                return tuple(self._open)
            self._thread = None
            return None

    def _look(self, streams: Sequence[Stream]) -> None:
        of_jobs = [stream for stream in streams if stream.reader.job_id is not None]
        of_tenants = [stream for stream in streams if stream.reader.job_id is None]
        if of_jobs:
            found = changes.revisions(self._engine, {stream.reader.job_id or "" for stream in of_jobs})
            now = time.monotonic()
            for stream in of_jobs:
                stream.look_at(found.get(stream.reader.job_id or ""), now)
        if of_tenants:
            self._look_at_tenants(of_tenants)

    def _look_at_tenants(self, streams: Sequence[Stream]) -> None:
        moved = changes.events_after(self._engine, self._place, MOST_EVENTS)
        if moved:
            self._place = moved[-1][1]
        running = changes.running(self._engine, {stream.reader.tenant for stream in streams})
        further = [row for row in running if self._revisions.get(row.id) != row.revision]
        self._revisions = {row.id: row.revision for row in running}
        tenants, now = {row.tenant for row, _ in moved}, time.monotonic()
        for stream in streams:
            tenant = stream.reader.tenant
            jobs = {row.id for row in further if row.tenant == tenant}
            stream.look_at_jobs(tenant in tenants, jobs, now)
