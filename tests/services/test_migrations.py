"""The schema: migrations up, down and up, what they make, and who may start on what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from services import db
from services.errors import SchemaMismatch
from services.jobs import attempts, batches
from services.orm import Base, Batch
from services.states import Status

INI = Path(__file__).parents[2] / "alembic.ini"


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Engine]:
    engine = db.engine(empty_database_url)
    yield engine
    engine.dispose()


def test_the_code_works_with_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(Config(INI)).get_current_head() == db.REVISION


def test_migrations_go_up_down_and_up_and_make_what_the_code_says(empty: Engine) -> None:
    db.migrate(empty)
    first, first_triggers = schema(empty), triggers(empty)
    assert len(first_triggers) == 8
    alembic(empty, "downgrade", "base")
    assert schema(empty) == triggers(empty) == []
    db.migrate(empty)
    assert (schema(empty), triggers(empty)) == (first, first_triggers)

    alembic(empty, "downgrade", "base")
    with empty.begin() as connection:
        Base.metadata.create_all(connection)
    assert schema(empty) == first


def test_a_database_that_was_never_migrated_is_refused(empty: Engine) -> None:
    with pytest.raises(SchemaMismatch, match="no tables yet"):
        db.check_schema(empty)


def test_migrating_twice_changes_nothing(empty: Engine) -> None:
    db.migrate(empty)
    db.migrate(empty)
    db.check_schema(empty)


def test_starts_at_once_do_not_race(empty_database_url: str) -> None:
    def start() -> None:
        engine = db.engine(empty_database_url)
        db.migrate(engine)
        db.check_schema(engine)
        engine.dispose()

    with ThreadPoolExecutor(6) as pool:
        for start_of_one in [pool.submit(start) for _ in range(6)]:
            start_of_one.result()


def test_a_newer_schema_is_refused_and_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    before = schema(engine)
    with pytest.raises(SchemaMismatch, match="9999"):
        db.migrate(engine)
    with pytest.raises(SchemaMismatch, match="9999"):
        db.check_schema(engine)
    assert schema(engine) == before


def test_the_database_holds_status_to_the_words_of_the_code(engine: Engine) -> None:
    statement = sa.text(
        "SELECT sql FROM sqlite_master WHERE name = 'jobs'"
        if engine.dialect.name == "sqlite"
        else "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'ck_jobs_status'"
    )
    with engine.connect() as connection:
        definition = str(connection.scalar(statement))
    for status in Status:
        assert f"'{status}'" in definition


def test_the_alembic_command_reads_the_service_settings(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", empty_database_url)
    command.upgrade(Config(INI), "head")
    engine = db.engine(empty_database_url)
    db.check_schema(engine)
    engine.dispose()


def test_rows_survive_the_way_to_tenants_and_back(empty: Engine) -> None:
    alembic(empty, "upgrade", "0003")
    with empty.begin() as connection:
        for statement in (
            "INSERT INTO datasets (id, name, version, sha256, bytes, summary, created_at)"
            " VALUES ('ds_1', 'toy', 1, 'a', 7, '{}', 1.5), ('ds_2', 'toy', 2, 'b', 8, '{}', 2.5)",
            "INSERT INTO jobs (id, status, spec, requested, queue, priority, tags, dataset_id, attempt, lost, failures,"
            " max_retries, ran_seconds, not_before, cancel_requested, pause_requested, revision, epoch, step,"
            " checkpoint_step, created_at, updated_at) VALUES ('job_1', 'queued', '{}', '{}', 'default', 0, '{}',"
            " 'ds_1', 0, 0, 0, 0, 0.0, 0.0, false, false, 1, 0, 0, 0, 1.0, 1.0)",
            "INSERT INTO idempotency_keys (scope, key, fingerprint, resource_id, created_at)"
            " VALUES ('POST /v1/jobs', 'k', 'f', 'job_1', 1.0)",
        ):
            connection.execute(sa.text(statement))
    before = rows(empty)
    for _ in range(2):
        db.migrate(empty)
        assert len(triggers(empty)) == 8
        with empty.begin() as connection:
            assert connection.scalar(sa.text("SELECT scope FROM idempotency_keys")) == "default POST /v1/jobs"
            assert set(connection.scalars(sa.text("SELECT tenant FROM jobs UNION SELECT tenant FROM datasets"))) == {
                "default"
            }
        with db.session_scope(empty) as session:  # another tenant may have a data set of this name, and none has two
            copy = "INSERT INTO datasets (id, tenant, name, version, sha256, bytes, summary, created_at)"
            session.execute(sa.text(f"{copy} VALUES ('ds_3', 'acme', 'toy', 1, 'a', 7, '{{}}', 1.5)"))
            with pytest.raises(IntegrityError), session.begin_nested():
                session.execute(sa.text(f"{copy} VALUES ('ds_4', 'acme', 'toy', 1, 'c', 7, '{{}}', 1.5)"))
            session.execute(sa.text("DELETE FROM datasets WHERE id = 'ds_3'"))
        with pytest.raises(IntegrityError), empty.begin() as connection:
            connection.execute(sa.text("DELETE FROM datasets WHERE id = 'ds_1'"))  # the job points at it still
        with empty.begin() as connection:
            connection.execute(sa.text("UPDATE jobs SET status = 'paused'"))
            connection.execute(sa.text("UPDATE jobs SET status = 'queued'"))
            moves = connection.scalars(sa.text("SELECT to_status FROM events ORDER BY id DESC LIMIT 2")).all()
            assert moves == ["queued", "paused"]
        alembic(empty, "downgrade", "0003")
        assert rows(empty) == before


def test_tenants_are_not_mixed_up_by_a_downgrade(empty: Engine) -> None:
    db.migrate(empty)
    with empty.begin() as connection:
        connection.execute(sa.text("INSERT INTO tenants (name, created_at) VALUES ('acme', 1.0)"))
    with pytest.raises(RuntimeError, match="1 tenant"):
        alembic(empty, "downgrade", "0003")
    db.check_schema(empty)


def test_batches_that_have_ended_before_are_told_to_nobody(empty: Engine) -> None:
    alembic(empty, "upgrade", "0007")
    job = (
        "INSERT INTO jobs (id, tenant, batch_id, status, spec, requested, queue, priority, tags, attempt, lost,"
        " failures, max_retries, ran_seconds, not_before, cancel_requested, pause_requested, revision, epoch, step,"
        " checkpoint_step, created_at, updated_at) VALUES (:id, 'default', :batch, 'queued', '{}', '{}', 'default', 0,"
        " '{}', 0, 0, 0, 0, 0.0, 0.0, false, false, 1, 0, 0, 0, 1.0, 1.0)"
    )
    hook = (
        "INSERT INTO webhooks (id, tenant, url, events, tags, secret, created_at, failures, quiet_until)"
        " VALUES ('{0}', 'default', 'https://a.b/', '{1}', '{{}}', 'whsec_', 1.0, 0, 0.0)"
    )
    with empty.begin() as connection:
        for batch in ("done", "half", "none"):
            statement = "INSERT INTO batches (id, tenant, varied, created_at) VALUES ('{0}', 'default', '[]', 5.0)"
            connection.execute(sa.text(statement.format(batch)))
        for job_id, batch, end, at in (
            ("job_1", "done", "failed", 7.0),
            ("job_2", "done", "cancelled", 9.0),
            ("job_3", "half", "failed", 8.0),
            ("job_4", "half", "queued", None),
        ):
            connection.execute(sa.text(job), {"id": job_id, "batch": batch})
            if at is not None:
                ended = "UPDATE jobs SET status = :end, finished_at = :at WHERE id = :id"
                connection.execute(sa.text(ended), {"id": job_id, "end": end, "at": at})
        connection.execute(sa.text(hook.format("wh_1", '["job.failed"]')))
    db.migrate(empty)
    with db.read_scope(empty) as session:
        ends = session.execute(sa.select(Batch.id, Batch.ended_at).order_by(Batch.id)).all()
        assert [tuple(row) for row in ends] == [("done", 9.0), ("half", None), ("none", 5.0)]
        assert batches.ended(session) == []
    with empty.begin() as connection:
        for webhook_id, events in (("wh_2", '["job.failed", "batch.ended"]'), ("wh_3", '["batch.ended"]')):
            connection.execute(sa.text(hook.format(webhook_id, events)))
        connection.execute(
            sa.text(
                "INSERT INTO webhooks SELECT 'wh_4', tenant, url, events, tags, secret, created_at,"
                " delivered_at, failures, quiet_until, disabled_at, disabled_reason, 'half', NULL FROM webhooks"
                " WHERE id = 'wh_1'"
            )
        )
    alembic(empty, "downgrade", "0007")
    with empty.connect() as connection:
        left = connection.execute(sa.text("SELECT id, events FROM webhooks ORDER BY id")).all()
    read = [(webhook_id, json.loads(events) if isinstance(events, str) else events) for webhook_id, events in left]
    assert read == [("wh_1", ["job.failed"]), ("wh_2", ["job.failed"])]


def test_the_best_epoch_of_jobs_that_succeeded_becomes_that_of_their_model(empty: Engine) -> None:
    alembic(empty, "upgrade", "0010")
    job = (
        "INSERT INTO jobs (id, tenant, status, spec, requested, queue, priority, tags, attempt, lost, failures,"
        " max_retries, ran_seconds, not_before, cancel_requested, pause_requested, revision, epoch, step,"
        " checkpoint_step, created_at, updated_at) VALUES (:id, 'default', 'queued', '{}', '{}', 'default', 0, '{}', 0,"
        " 0, 0, 0, 0.0, 0.0, false, false, 1, 3, 9, 9, 1.0, 1.0)"
    )
    claim = (
        "UPDATE jobs SET status = 'running', attempt = 1, worker = 'w', lease_until = 9.0, attempt_started_at = 2.0,"
        " started_at = 2.0 WHERE id = :id"
    )
    end = (
        "UPDATE jobs SET status = :end, lease_until = NULL, finished_at = 3.0, best = :best, result = :result"
        " WHERE id = :id"
    )
    told = {"epoch": 2, "metric": "train_loss", "value": 0.5}
    right = {"epoch": 3, "metric": "validation_loss", "value": 0.6}
    found = {"best_epoch": 3, "metrics": {"validation_loss": 0.6}}
    losses = {1: (0.9, 0.7), 2: (0.5, None), 3: (0.45, 0.6)}
    with empty.begin() as connection:
        for job_id, status, best, result in (
            ("wrong", "succeeded", told, found),
            ("right", "succeeded", right, found),
            ("failed", "failed", told, None),
        ):
            connection.execute(sa.text(job), {"id": job_id})
            connection.execute(sa.text(claim), {"id": job_id})
            documents = {"best": json.dumps(best), "result": None if result is None else json.dumps(result)}
            connection.execute(sa.text(end), {"id": job_id, "end": status, **documents})
            for epoch, (train, validation) in losses.items():
                record = json.dumps({"epoch": epoch, "train_loss": train, "validation_loss": validation})
                insert = sa.text("INSERT INTO epochs (job_id, epoch, record) VALUES (:id, :epoch, :record)")
                connection.execute(insert, {"id": job_id, "epoch": epoch, "record": record})
    alembic(empty, "upgrade", "0011")
    with empty.connect() as connection:
        left = connection.execute(sa.text("SELECT id, best, revision FROM jobs ORDER BY id")).all()
    read = {row.id: json.loads(row.best) if isinstance(row.best, str) else row.best for row in left}
    assert read == {"failed": told, "right": right, "wrong": right}
    assert {row.id: row.revision for row in left} == {"failed": 1, "right": 1, "wrong": 2}  # an ETag changes


def test_jobs_that_wait_come_into_lanes_on_the_way_and_go_on_in_their_order(empty: Engine) -> None:
    alembic(empty, "upgrade", "0011")
    job = (
        "INSERT INTO jobs (id, tenant, batch_id, status, spec, requested, queue, priority, tags, attempt, lost,"
        " failures, max_retries, ran_seconds, not_before, cancel_requested, pause_requested, revision, epoch, step,"
        " checkpoint_step, created_at, updated_at) VALUES (:id, :tenant, :batch, 'queued', '{}', '{}', 'default', 0,"
        " '{}', 0, 0, 0, 0, 0.0, 0.0, false, false, 1, 0, 0, 0, 1.0, 1.0)"
    )
    waiting = [*(("acme", "sweep"),) * 2, ("acme", None), ("acme", "night"), ("acme", None), ("default", None)]
    with empty.begin() as connection:
        connection.execute(sa.text("INSERT INTO tenants (name, created_at) VALUES ('acme', 1.0)"))
        for number, (tenant, batch) in enumerate(waiting):
            connection.execute(sa.text(job), {"id": f"job_{number}", "tenant": tenant, "batch": batch})
        connection.execute(sa.text("UPDATE jobs SET status = 'cancelled' WHERE id = 'job_3'"))
    before = rows(empty)
    for _ in range(2):
        db.migrate(empty)
        with empty.connect() as connection:
            lanes = connection.execute(sa.text("SELECT tenant, has_jobs FROM lanes ORDER BY tenant")).all()
        assert [tuple(lane) for lane in lanes] == [("acme", True), ("default", True)]
        alembic(empty, "downgrade", "0011")
        assert rows(empty) == before
    db.migrate(empty)
    with db.session_scope(empty) as session:
        claims = [attempts.claim(session, "default", worker="w", lease_seconds=60) for _ in range(6)]
    assert [claim and claim.id for claim in claims] == ["job_0", "job_5", "job_2", "job_1", "job_4", None]


def rows(engine: Engine) -> list[list[dict[str, object]]]:
    """Everything that data sets, jobs and idempotency keys hold."""
    tables = ("datasets", "jobs", "idempotency_keys")
    with engine.connect() as connection:
        return [
            [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY 1")).mappings()]  # noqa: S608
            for table in tables
        ]


def alembic(engine: Engine, verb: str, revision: str) -> None:
    config = Config(INI)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        getattr(command, verb)(config, revision)


def schema(engine: Engine) -> list[tuple[object, ...]]:
    """Every table, index and constraint, in the database's own words."""
    if engine.dialect.name == "sqlite":
        queries = [
            "SELECT name, sql FROM sqlite_master"
            " WHERE name <> 'alembic_version' AND type <> 'trigger' AND sql IS NOT NULL"
        ]
    else:
        queries = [
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name <> 'alembic_version'",
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
            "SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass",
        ]
    with engine.connect() as connection:
        rows = [row for query in queries for row in connection.execute(sa.text(query))]
    return sorted(tuple(normal(value) for value in row) for row in rows)


def triggers(engine: Engine) -> list[str]:
    sqlite = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    postgresql = (
        "SELECT trigger_name || ' ' || event_manipulation FROM information_schema.triggers"
        " WHERE trigger_schema = 'public' ORDER BY 1"
    )
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.text(sqlite if engine.dialect.name == "sqlite" else postgresql)))


def normal(value: object) -> str:
    """Without layout, with a foreign key that came with its column as a constraint of the table, and with a table's
    columns and constraints in the order of the alphabet."""
    text = re.sub(
        r"(\w+) TEXT CONSTRAINT (\w+) REFERENCES", r"\1 TEXT, CONSTRAINT \2 FOREIGN KEY(\1) REFERENCES", str(value)
    )
    text = re.sub(r"\s+", " ", text).replace(" )", ")")
    return ", ".join(sorted(part.strip(" )") for part in text.split(",")))
