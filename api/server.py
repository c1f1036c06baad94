"""Serves the API with gunicorn: `python -m api`.

Two processes of 64 threads: a long poll or a download holds a thread, not a process. Slow clients: see pace.py.
"""

from __future__ import annotations

import resource
from datetime import timedelta
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.workers.base import Worker  # type: ignore[import-untyped]

from api import access, wsgi
from api.balance import Balance
from api.pace import OWN_DESCRIPTORS
from services import db, logs, metrics
from services.settings import Settings
from services.starting import exit_on_error

WORKERS = 2
THREADS = 64
CONNECTIONS = 4096
"""That a process keeps open at once, where the system lets it open so many files."""


def options(settings: Settings, balance: Balance) -> dict[str, Any]:
    """The settings of gunicorn."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "proc_name": "loopline-api",
        "worker_class": "api.pace.PacedWorker",
        "workers": WORKERS,
        "threads": THREADS,
        "worker_connections": CONNECTIONS,
        "control_socket_disable": True,
        "graceful_timeout": 20,
        "loglevel": settings.log_level,
        "logger_class": Log,
        "pre_fork": balance.enter,
        "post_worker_init": end_polls_with,
        "child_exit": balance.leave,
    }


def end_polls_with(worker: Worker) -> None:
    """Ends long polls and streams when their process is asked to stop, so that it does not take a minute."""
    service = worker.wsgi.extensions["loopline"]
    service.closing = service.streams.closing = lambda: not worker.alive


class Log(Logger):  # type: ignore[misc]
    """gunicorn's records, on the same way out as everybody's."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        if not resp.status:  # the connection broke before there was an answer
            return
        access.answered(environ, int(str(resp.status)[:3]), request_time.total_seconds(), resp.sent)


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by `settings` instead of a file or the command line."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.balance = Balance(WORKERS)  # once: gunicorn reads its settings again when it replaces all workers
        super().__init__()

    def load_config(self) -> None:
        for name, value in options(self.settings, self.balance).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return wsgi.create_app_from(self.settings)


def _allow_descriptors() -> None:
    """Open as many files as the system lets us: most shells start with 1,024, and each client takes one or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS + OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main() -> None:
    """Runs until it is asked to stop. First it migrates the database, once for all processes."""
    with exit_on_error("Loopline's API"):
        settings = Settings()
        logs.configure(settings)
        engine = db.engine(settings.database_url)
        db.migrate(engine)
        engine.dispose()
        _allow_descriptors()
        with metrics.shared(settings):  # before the fork: both processes count together, and this one is asked
            Server(settings).run()
