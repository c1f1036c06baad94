"""The configuration of Celery, and the start and stop of its main process and its pool children."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from celery import Celery, signals
from kombu.entity import Exchange, Queue

from services import db, logs, metrics
from services.blobs import storage
from services.jobs.doorbell import RING
from services.settings import Settings
from worker import tasks, transport
from worker.attempt.child import Template, reason_against_forks
from worker.attempt.slot import Slot
from worker.attempt.spare import Spares, trainer_command, trainer_environment
from worker.drain import Drain
from worker.gpu.devices import gpu_of
from worker.heartbeat import Heartbeat, end_parent

log = logging.getLogger(__name__)


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings; they are read when Celery first needs them, not at import."""
    return {
        "broker_url": settings.broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a broker may be away for hours; jobs go on meanwhile
        "broker_connection_timeout": 4.0,
        "broker_transport_options": {
            # A connection that died without a word is noticed within a minute.
            "socket_connect_timeout": 4.0,
            "socket_timeout": 10.0,
            "socket_keepalive": True,
            "health_check_interval": 15,
            "retry_on_timeout": False,
        },
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in settings.queue_names],
        "task_default_queue": settings.queue_names[0],
        "task_acks_late": False,
        "task_ignore_result": True,
        "result_backend": None,
        "task_serializer": "json",
        "accept_content": ["json"],
        "worker_concurrency": 1,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,  # a doorbell held while every slot is busy would reach no other worker
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": False,
        "worker_send_task_events": settings.celery_events,
        "worker_redirect_stdouts": False,
        "worker_lost_wait": 0.5,
    }


class Worker:
    """What Celery's signals build up, in the order they come in: first in the main process, then in each pool child."""

    _drain: Drain
    _slot: Slot
    _heartbeat: Heartbeat
    _template: Template | None

    def __init__(self, command: Sequence[str] | None, forks: bool) -> None:
        self._command, self._forks = command, forks
        self._counting = ExitStack()

    def connect(self, app: Celery) -> None:
        signals.setup_logging.connect(self.on_logging, weak=False)
        signals.worker_init.connect(self.on_init, weak=False)
        signals.worker_ready.connect(self.on_ready, weak=False)
        signals.worker_shutting_down.connect(self.on_shutting_down, weak=False)
        signals.worker_shutdown.connect(self.on_shutdown, weak=False)
        signals.worker_process_init.connect(self.on_process_init, weak=False)
        signals.worker_process_shutdown.connect(self.on_process_shutdown, weak=False)
        app.task(name=RING, shared=False, typing=False, ignore_result=True)(self.on_ring)

    def on_logging(self, **_: Any) -> None:
        logs.configure(Settings())
        for chatty in ("celery.worker.strategy", "celery.app.trace"):  # a line for each bell says nothing of a job
            logging.getLogger(chatty).setLevel(logging.WARNING)

    def on_init(self, **_: Any) -> None:
        # Before the pool forks, so that its children share both.
        self._drain = Drain()
        self._counting.enter_context(metrics.shared(Settings()))

    def on_ready(self, **_: Any) -> None:
        # Celery ends at once on Ctrl-C, and the job would wait for its lease to run out; give it back as on SIGTERM.
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))

    def on_shutdown(self, **_: Any) -> None:
        self._counting.close()

    def on_shutting_down(self, **_: Any) -> None:
        self._drain.raise_flag()

    def on_process_init(self, **_: Any) -> None:
        settings = Settings()
        metrics.expect(settings.queue_names)
        command = self._command or trainer_command(
            device=settings.device,
            threads=settings.trainer_threads,
            workers=settings.cpu_workers if settings.device == "cpu" else None,
        )
        self._template = None
        if self._forks and (reason := reason_against_forks(settings.device)) is None:
            self._template = Template(command, trainer_environment(os.environ))
            self._template.start()
        elif self._forks:
            log.info("each trainer imports torch itself: %s", reason)
        spares = Spares(command, count=settings.spare_trainers, template=self._template)
        spares.prepare()
        self._slot = Slot(
            settings=settings,
            engine=db.engine(settings.database_url),
            storage=storage.from_settings(settings),
            spares=spares,
            drain=self._drain,
            worker=name(),
            gpu=gpu_of(settings.device, os.environ),
        )
        self._heartbeat = Heartbeat(self._slot, end=partial(end_parent, os.getppid()))
        self._heartbeat.start()

    def on_process_shutdown(self, **_: Any) -> None:
        self._heartbeat.stop()
        self._slot.spares.end()
        if self._template is not None:
            self._template.end()
        self._slot.engine.dispose()

    def on_ring(self, *arguments: object, **_: object) -> None:
        tasks.ring(self._slot, arguments[0] if len(arguments) == 1 else arguments)


def name() -> str:
    """Where this process is found, and what no other has: process ids come back, in containers often the same ones."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def create_app(command: Sequence[str] | None = None, *, forks: bool = True) -> Celery:
    """A Celery app whose workers train with `command`, by default worker/trainer.py. `forks`: whether the command can
    be a template's."""
    transport.use()
    made = Celery("loopline", set_as_current=False)
    made.add_defaults(lambda: configuration(Settings()))
    Worker(command, forks).connect(made)
    return made
