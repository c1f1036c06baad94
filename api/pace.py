"""The gunicorn worker that serves the API. A slow client does not delay the answers to other clients.

One event loop waits for all clients at once. It reads the head of each request, and the body if it is small. Then a
thread computes the answer and sends as much of it as the client accepts at once. If the client does not accept all of
it, the rest stays with the connection and the thread serves other clients. A thread sends the rest when the client has
read more. So no thread waits for a silent client, for a slow head, or for a client that does not read its answer.
Reading a large body does occupy a thread, within the limits in reading.py.

A stream (streams.py) has nothing to send most of the time. Then it has no thread either: its connection is put aside
until the stream wakes it, or its client closes it.

Each address gets a limited share of the threads and connections: see shares.py. All unsent answers together are limited
too. Above this limit the worker closes the connection whose client has not read anything for the longest time.
"""

from __future__ import annotations

import errno
import os
import resource
import selectors
import socket
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from gunicorn.http import wsgi  # type: ignore[import-untyped]
from gunicorn.http.errors import NoMoreData, ParseException  # type: ignore[import-untyped]
from gunicorn.workers.base import Worker  # type: ignore[import-untyped]

from api import access, balance, refusals, streams
from api.connections import OUT_BYTES, Answer, Connection, State
from api.reading import SLOW_THREADS
from api.refusals import Refusal
from api.shares import Shares, Turns

LOOK_SECONDS = 1.0
ACCEPTED_AT_ONCE = 64
OWN_DESCRIPTORS = 256
"""Of the files that a process may open: for the database and the broker. A connection takes two, one for its answer."""
WAITING_BYTES = 1 << 26
"""Of answers, in a process, that wait for their clients."""
LINGER_SECONDS, LINGER_BYTES = 5.0, 1 << 20
"""How long an answer that ends a connection is given to be read, and how much is taken meanwhile, before what is still
sent resets it."""
STOP_IDLE_SECONDS = 1.0
"""When the process is told to stop: how long a connection is kept for a request that is on its way."""
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

TOO_MANY = "Too many connections from this address are open; close some, or try again in a few seconds."
TOO_SLOW = "The request did not come in time: its bytes come too slowly."
BROKEN = "Something went wrong inside the service. Its log holds the reason."


class Next(Enum):
    """What becomes of a connection when a thread is done with it."""

    SEND = auto()
    """The client has to read before more can be sent."""
    REQUEST = auto()
    """The answer is out; another request may come."""
    LEAVE = auto()
    """The answer is out, and was the last one."""
    HOLD = auto()
    """There is nothing to send now."""
    CLOSE = auto()
    """The connection is broken."""


class PacedWorker(Worker):  # type: ignore[misc]
    """Serves a WSGI application: `cfg.threads` threads, and a loop. TLS is for a proxy in front of it."""

    alive: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # No header of a client says where the application is mounted, or whether it was asked over TLS.
        self.cfg.set("forwarder_headers", "")
        self.cfg.set("forwarded_allow_ips", "")
        self.cfg.set("http_parser", "python")
        self.load = balance.alone()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        if cfg.is_ssl:
            raise RuntimeError("api.pace.PacedWorker speaks plain HTTP: put a proxy with TLS in front of it.")

    def init_process(self) -> None:
        self.poller = selectors.DefaultSelector()
        self.pool = ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="answers")
        self.threads, self.turns = Shares(self.cfg.threads), Turns[Connection]()
        self.places = Shares(min(self.cfg.worker_connections, max((_descriptors() - OWN_DESCRIPTORS) // 2, 64)))
        self.slow = threading.BoundedSemaphore(SLOW_THREADS)
        self.open: set[Connection] = set()
        self.waiting_bytes = 0
        self.done: deque[tuple[Connection, Next]] = deque()
        self.called: deque[Connection] = deque()
        """Streams that have something to send."""
        self.awake, self.accepting = False, False
        self.yields_until: float | None = None
        """Until when it leaves the next connection to another process."""
        super().init_process()

    # The loop

    def run(self) -> None:
        self.poller.register(self.PIPE[0], EVENT_READ)
        for listener in self.sockets:
            listener.setblocking(False)
        self.looked_at = time.monotonic()
        self.load.set(0)
        self._accept_or_not(True)
        while self.alive and self.ppid == os.getppid():
            self._turn()
        self.alive = False
        self.load.set(balance.AWAY)
        self._accept_or_not(False)
        end = time.monotonic() + self.cfg.graceful_timeout
        for conn in self.open:
            if conn.state is State.HEAD:
                conn.deadline = min(conn.deadline, time.monotonic() + STOP_IDLE_SECONDS)
            elif conn.state is State.HELD:  # it ends now
                self._work_soon(conn)
        while self.open and time.monotonic() < end:
            self._turn()
        for conn in list(self.open):
            self._close(conn)
        self.pool.shutdown(wait=False)
        self.poller.close()

    def _turn(self) -> None:
        for key, _ in self.poller.select(self._patience()):
            if isinstance(key.data, Connection):
                if key.data in self.open:  # or it was closed for another's sake, in this very turn
                    self._ready(key.data)
            elif key.data is not None:
                self._accept(key.data)
            else:
                self._woken()
        self._accept_what_is_left()
        while (conn := self.turns.take(self.threads)) is not None:
            self.threads.take(conn.who)
            self.pool.submit(self._work, conn)
        now = time.monotonic()
        if now >= self.looked_at + (LOOK_SECONDS if self.alive else 0):
            self.looked_at = now
            self.notify()
            for conn in [conn for conn in self.open if conn.deadline <= now]:
                self._late(conn)
            self._accept_or_not(self.alive)

    def _patience(self) -> float:
        """For how many seconds at most the loop waits for something to happen."""
        if not self.alive:
            return LOOK_SECONDS / 10
        return LOOK_SECONDS if self.yields_until is None else max(self.yields_until - time.monotonic(), 0.0)

    def _woken(self) -> None:
        """By a thread that is done, or by a signal."""
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)
        self.awake = False
        while self.done:
            conn, what = self.done.popleft()
            self.threads.give_back(conn.who)
            match what:
                case Next.SEND:
                    self._send_later(conn)
                case Next.REQUEST:
                    conn.next_request(self.cfg.keepalive if self.alive else STOP_IDLE_SECONDS)
                    self.poller.register(conn.sock, EVENT_READ, conn)
                    self._ask(conn)
                case Next.HOLD:
                    self._hold(conn)
                case Next.LEAVE:
                    self._leave(conn)
                case Next.CLOSE:
                    self._close(conn)
        while self.called:
            conn = self.called.popleft()
            if conn.state is State.HELD and conn in self.open:
                self._work_soon(conn)
            else:
                conn.has_news = True

    def _accept_or_not(self, accepting: bool) -> None:
        if accepting != self.accepting:
            self.accepting = accepting
            for listener in self.sockets:
                if accepting:
                    self.poller.register(listener, EVENT_READ, listener)
                else:
                    self.poller.unregister(listener)

    def _accept(self, listener: Any) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if self.load.is_higher():
                self.yields_until = time.monotonic() + balance.YIELD_SECONDS
                self._accept_or_not(False)
                return
            if not self._accept_one(listener):
                return

    def _accept_what_is_left(self) -> None:
        """A connection that was left to another process, which has not taken it."""
        if self.yields_until is not None and time.monotonic() >= self.yields_until and self.alive:
            self.yields_until = None
            self._accept_or_not(True)
            for listener in self.sockets:
                self._accept_one(listener)

    def _accept_one(self, listener: Any) -> bool:
        """Whether there was one."""
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in NO_ROOM:  # until the next look, or the loop would spin
                self.log.warning("cannot accept connections now: %s", error)
                self._accept_or_not(False)
            return False
        with suppress(OSError):  # gone again
            self._add(sock, client)
        return True

    def _add(self, sock: socket.socket, client: Any) -> None:
        conn = Connection(sock, client, self.slow)
        if not self.places.may_take(conn.who):
            refused = refusals.refusal(503, TOO_MANY, {"Retry-After": "5"})
            with suppress(OSError):
                sock.send(refused.content)
            conn.close()
            _log(None, refused)
            return
        self.places.take(conn.who)
        self.open.add(conn)
        self.load.set(len(self.open))
        self.poller.register(sock, EVENT_READ, conn)
        self._ready(conn)  # mostly the request is there already

    def _ready(self, conn: Connection) -> None:
        """Something may come or go."""
        if conn.state is State.SENDING:
            self._uncount(conn)
            self._work_soon(conn)
            return
        try:
            more = conn.drop_received() if conn.state in (State.LEAVING, State.HELD) else conn.receive()
        except OSError:
            more = False
        if not more or conn.left_bytes > LINGER_BYTES:
            (self._give_up if conn.state is State.HELD else self._close)(conn)
        elif conn.state is State.HEAD:
            self._ask(conn)

    def _ask(self, conn: Connection) -> None:
        """Let the request be answered, if it is whole."""
        try:
            asked = conn.is_asked(self.cfg)
        except (ParseException, NoMoreData, StopIteration) as error:
            self._refuse(conn, refusals.of_error(error))
        else:
            if asked:
                self._work_soon(conn)

    def _work_soon(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        conn.state, conn.has_news = State.WORKING, False
        conn.deadline = float("inf")
        self.turns.put(conn.who, conn)

    def _hold(self, conn: Connection) -> None:
        """Put a stream aside, unless it has something to send by now."""
        conn.state, conn.sending_since = State.HELD, None
        self.poller.register(conn.sock, EVENT_READ, conn)  # it is readable when the client closes it
        if conn.has_news or not self.alive:
            self._work_soon(conn)

    def _send_later(self, conn: Connection) -> None:
        conn.state = State.SENDING
        conn.expect_reading()
        conn.counted = len(conn.out)
        self.waiting_bytes += conn.counted
        self.poller.register(conn.sock, EVENT_WRITE, conn)
        while self.waiting_bytes > WAITING_BYTES:
            sending = (conn for conn in self.open if conn.state is State.SENDING and conn.counted)
            self._give_up(min(sending, key=lambda conn: conn.sent_at))

    def _uncount(self, conn: Connection) -> None:
        self.waiting_bytes -= conn.counted
        conn.counted = 0

    def _late(self, conn: Connection) -> None:
        """The time of a connection is over."""
        if conn.state is State.SENDING:
            self._give_up(conn)
        elif conn.state is State.HEAD and (conn.came or conn.request is not None):
            self._refuse(conn, refusals.refusal(408, TOO_SLOW))
        else:
            self._close(conn)

    def _give_up(self, conn: Connection) -> None:
        """The client does not read, or is gone."""
        if conn.answer is not None:
            self._finish(conn.answer, conn)
        self._close(conn)

    def _refuse(self, conn: Connection, refused: Refusal) -> None:
        _log(conn, refused)
        with suppress(OSError):
            conn.sock.send(refused.content)
        self.poller.unregister(conn.sock)
        self._leave(conn)

    def _leave(self, conn: Connection) -> None:
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, conn)
        except OSError:
            self._close(conn)
        else:
            conn.state, conn.request = State.LEAVING, None
            conn.deadline = time.monotonic() + LINGER_SECONDS

    def _close(self, conn: Connection) -> None:
        with suppress(KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self._uncount(conn)
        self.open.discard(conn)
        if self.alive:
            self.load.set(len(self.open))
        self.places.give_back(conn.who)
        conn.close()

    # In threads

    def _work(self, conn: Connection) -> None:
        """Make the answer, or go on with it, as far as the client reads it."""
        what = Next.CLOSE
        try:
            what = self._answered(conn)
        except (OSError, NoMoreData) as error:
            self.log.debug("a client is gone: %s", error)
        except Exception:
            self.log.exception("Error handling request")
            what = self._answer_error(conn)
        finally:
            if what not in (Next.SEND, Next.HOLD) and conn.answer is not None:
                self._finish(conn.answer, conn)
            self.done.append((conn, what))
            self._wake_loop()

    def _wake_loop(self) -> None:
        if not self.awake:
            self.awake = True
            os.write(self.PIPE[1], b".")

    def _call(self, conn: Connection) -> None:
        """A stream has something to send."""
        self.called.append(conn)
        with suppress(OSError):  # the process ends
            self._wake_loop()

    def _answered(self, conn: Connection) -> Next:
        answer = conn.answer or self._asked(conn)
        while True:
            is_empty = False
            while answer.parts is not None and len(conn.out) < OUT_BYTES and not is_empty:
                if (part := next(answer.parts, None)) is None:
                    answer.response.close()
                    answer.parts = None
                else:
                    answer.response.write(part)
                    is_empty = answer.is_stream and not part
            if not conn.flush():
                return Next.SEND
            if is_empty:
                return Next.HOLD
            if answer.parts is None:
                return Next.LEAVE if answer.response.should_close() else Next.REQUEST

    def _asked(self, conn: Connection) -> Answer:
        """Ask the application."""
        conn.reader.begin()
        response, environ = wsgi.create(conn.request, conn, conn.client, conn.server, self.cfg)
        environ["wsgi.multithread"] = True
        environ[streams.WAKE] = partial(self._call, conn)
        conn.answer = answer = Answer(response, environ)
        self.nr += 1
        if self.nr >= self.max_requests:
            self.alive = False
        if not self.alive or not self.cfg.keepalive:
            response.force_close()
        body = self.wsgi(environ, response.start_response)
        answer.parts, answer.close = iter(body), getattr(body, "close", answer.close)
        answer.is_stream = streams.STREAM in environ
        if answer.is_stream or not conn.body_is_read():
            response.force_close()
        return answer

    def _answer_error(self, conn: Connection) -> Next:
        """Answers an error that the application did not handle, unless part of another answer was already sent."""
        if conn.sent:
            return Next.CLOSE
        refused = refusals.refusal(500, BROKEN)
        conn.out[:] = refused.content
        if conn.answer is not None:
            conn.answer.response.status = None  # it was never sent, so nothing is told of it
        with suppress(OSError):
            conn.flush()
        _log(conn, refused)
        return Next.LEAVE

    def _finish(self, answer: Answer, conn: Connection) -> None:
        """The answer is out, or given up."""
        try:
            answer.close()
        except Exception:
            self.log.exception("Error at the end of a request")
        answer.response.sent = max(answer.response.sent - len(conn.out), 0)
        self.log.access(answer.response, conn.request, answer.environ, answer.took)


def _descriptors() -> int:
    """How many this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _log(conn: Connection | None, refused: Refusal) -> None:
    """In log and metrics, of what the application never saw."""
    request = conn.request if conn is not None else None
    environ = {access.REQUEST_ID: refused.request_id}
    if request is not None:
        environ |= {"REQUEST_METHOD": request.method, "RAW_URI": request.uri}
    access.answered(environ, refused.status, 0.0, len(refused.content))
