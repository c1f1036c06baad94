"""A database that is locked, full, cut off, damaged, or older than the code: nothing is lost, and the error says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Engine

from services import db, faults
from services.errors import LeaseLost, Unavailable
from services.jobs import attempts, control, events, progress, queries
from services.jobs.leases import Lease
from services.orm import Job
from services.sqlite import driver as sqlite3
from services.training.spec import Spec
from tests.rows import create_job, transitions
from tests.services.conftest import claimed

INI = Path(__file__).parents[2] / "alembic.ini"
POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    faults.disarm()


def cut_connections(engine: Engine) -> None:
    """As an administrator, or a network, does to every connection of this database but one's own."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
    with psycopg.connect(
        engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    ) as administrator:
        administrator.execute(query + "pg_backend_pid()")


def status(engine: Engine, job_id: str) -> tuple[str, int]:
    with db.read_scope(engine) as session:
        job = control.get(session, job_id)
        return job.status, job.attempt


# Cut off


@POSTGRESQL
def test_a_claim_whose_connection_is_cut_before_its_commit_never_happened(engine: Engine, queued_job: Job) -> None:
    faults.arm("transaction.written", lambda: cut_connections(engine))
    with pytest.raises(Unavailable):
        claimed(engine)
    faults.disarm()
    assert status(engine, queued_job.id) == ("queued", 0)
    assert claimed(engine).attempt == 1  # over a new connection, at the first try


@POSTGRESQL
@pytest.mark.parametrize("write", ["renew", "record", "succeed"])
def test_a_write_whose_connection_is_cut_can_be_made_again(engine: Engine, lease: Lease, write: str) -> None:
    writes: dict[str, Callable[[Any], object]] = {
        "renew": lambda s: attempts.renew(s, lease, 60),
        "record": lambda s: progress.record(s, lease, {"epoch": 1, "train_loss": 1.0}),
        "succeed": lambda s: attempts.succeed(s, lease, {}, []),
    }
    faults.arm("transaction.written", lambda: cut_connections(engine))
    with pytest.raises(Unavailable), db.session_scope(engine) as session:
        writes[write](session)
    faults.disarm()
    assert status(engine, lease.job_id) == ("running", 1)
    with db.session_scope(engine) as session:
        writes[write](session)
    with db.read_scope(engine) as session:
        assert len(progress.epochs(session, lease.job_id)) == (write == "record")


def test_an_end_whose_answer_was_lost_is_found_to_have_happened_when_it_is_written_again(
    engine: Engine, lease: Lease
) -> None:
    def lose_the_answer() -> None:
        raise Unavailable("The connection was reset.")

    faults.arm("transaction.committed", lose_the_answer)
    with pytest.raises(Unavailable), db.session_scope(engine) as session:
        attempts.succeed(session, lease, {"epochs": 3}, [])
    faults.disarm()
    with pytest.raises(LeaseLost), db.session_scope(engine) as session:
        attempts.succeed(session, lease, {"epochs": 3}, [])
    with db.read_scope(engine) as session:
        ends = [row.to_status for row in transitions(session, lease.job_id)]
    assert ends == ["queued", "running", "succeeded"]


@POSTGRESQL
def test_connections_that_were_cut_while_idle_cost_nobody_an_error(engine: Engine, queued_job: Job) -> None:
    assert status(engine, queued_job.id) == ("queued", 0)  # a connection waits in the pool
    cut_connections(engine)
    assert status(engine, queued_job.id) == ("queued", 0)


@POSTGRESQL
def test_a_transaction_that_waits_for_a_lock_gives_up(
    database_url: str, queued_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_SECONDS", 0.2)
    impatient = db.engine(database_url)
    with db.session_scope(impatient) as session:
        control.cancel(session, queued_job.id)  # holds the row
        with pytest.raises(Unavailable, match="lock timeout"), db.session_scope(impatient) as other:
            control.cancel(other, queued_job.id)
    impatient.dispose()


# Locked, full, damaged


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_writer_waits_for_a_locked_sqlite_and_goes_on(engine: Engine, queued_job: Job, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "loopline.db", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    waited: list[float] = []

    def write() -> None:
        began = time.monotonic()
        with db.session_scope(engine) as session:
            control.cancel(session, queued_job.id)
        waited.append(time.monotonic() - began)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.5)
    assert not waited
    other.rollback()
    other.close()
    writer.join(10)
    assert waited[0] >= 0.4
    assert status(engine, queued_job.id)[0] == "cancelled"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_full_disk_loses_nothing_and_is_over_when_there_is_room(
    engine: Engine, queued_job: Job, make_spec: Callable[..., Spec]
) -> None:
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def fill_up(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    made: list[str] = []

    def create_for_ever() -> None:
        while True:
            with db.session_scope(engine) as session:
                job = create_job(session, make_spec(), requested={"x": "y" * 500}, dataset_id=None)
            made.append(job.id)

    sa.event.listen(engine, "connect", fill_up)
    engine.dispose()
    with pytest.raises(Unavailable, match="full"):
        create_for_ever()
    sa.event.remove(engine, "connect", fill_up)
    engine.dispose()
    with db.session_scope(engine) as session:
        made.append(create_job(session, make_spec()).id)
    with db.read_scope(engine) as session:
        assert {job.id for job in queries.page(session.connection(), tenant="default", limit=1000).rows} == {
            queued_job.id,
            *made,
        }


def test_a_full_disk_of_postgresql_is_unavailability(engine: Engine) -> None:
    assert issubclass(psycopg.errors.DiskFull, psycopg.OperationalError)  # as db.py takes it


def test_a_damaged_sqlite_file_is_unavailable_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "loopline.db").write_bytes(b"this is no database" * 1000)
    engine = db.engine(f"sqlite:///{tmp_path}/loopline.db")
    with pytest.raises(Unavailable, match="damaged"):
        db.check_schema(engine)
    engine.dispose()


# Older, and of another clock


def test_a_schema_is_brought_up_to_date_under_queued_and_running_jobs(
    empty_database_url: str, make_spec: Callable[..., Spec]
) -> None:
    engine = db.engine(empty_database_url)
    alembic(engine, "upgrade", "0001")
    old = {
        **{"id": "job_" + "0" * 26, "status": "running", "attempt": 1, "lease_until": 1.0, "attempt_started_at": 0.5},
        **{"queue": "default", "priority": 0, "lost": 0, "failures": 0, "max_retries": 2, "ran_seconds": 0.0},
        **{"not_before": 0.0, "cancel_requested": False, "pause_requested": False, "revision": 3, "epoch": 1},
        **{"step": 4, "checkpoint_step": 4, "created_at": 0.0, "updated_at": 1.0},
        **{"spec": make_spec().document(), "requested": {}, "tags": {}},
    }
    with engine.begin() as connection:
        table = sa.Table("jobs", sa.MetaData(), autoload_with=connection)
        for row in (old, {**old, "id": "job_" + "1" * 26, "status": "queued", "attempt": 0, "lease_until": None}):
            connection.execute(sa.insert(table).values(row))
            insert = "INSERT INTO transitions (job_id, to_status, attempt, at) VALUES (:id, :status, :attempt, 1.0)"
            connection.execute(sa.text(insert), row)
    db.migrate(engine)
    with db.session_scope(engine) as session:
        assert [row.to_status for row in transitions(session, str(old["id"]))] == ["running"]
        assert attempts.expire(session) == [old["id"]]
    assert {claimed(engine).job_id, claimed(engine).job_id} == {"job_" + "0" * 26, "job_" + "1" * 26}
    alembic(engine, "downgrade", "0001")
    db.migrate(engine)
    with db.read_scope(engine) as session:
        moves = [row.to_status for row in events.page(session, str(old["id"]), type="status")[0]]
    assert moves == ["running", "queued", "running"]
    engine.dispose()


def alembic(engine: Engine, verb: str, revision: str) -> None:
    config = Config(INI)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        getattr(command, verb)(config, revision)


@pytest.mark.parametrize("minutes", [-10, 10])
@pytest.mark.parametrize("renewed", [False, True])
def test_a_worker_whose_clock_is_wrong_neither_loses_its_lease_nor_keeps_it(
    engine: Engine, queued_job: Job, monkeypatch: pytest.MonkeyPatch, minutes: int, renewed: bool
) -> None:
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + 60 * minutes)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + 60 * minutes * 10**9)
    lease = claimed(engine)
    if renewed:
        with db.session_scope(engine) as session:
            attempts.renew(session, lease, 60)
    monkeypatch.undo()
    with db.session_scope(engine) as session:
        assert attempts.expire(session) == []
        left = control.get(session, lease.job_id).lease_until - session.scalar(sa.select(db.now()))
        assert 50 < left <= 60
