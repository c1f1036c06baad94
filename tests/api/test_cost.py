"""What a request asks of the database: how many statements, and that none reads a whole table, however large it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.engine import Engine

from services import db
from services.jobs import attempts, changes, progress, queries, workers
from services.jobs.changes import Cursor
from services.jobs.leases import Lease
from services.orm import Epoch, Job

Statement = tuple[str, Any]
SMALL = {"workers"}
"""Tables that have a row for each process that is there, and no more."""

SORTED = {"/v1/models"}
"""Lists that sort what a page needs and no more: the aliases of its models."""

ONE_QUEUED = "/v1/jobs/{job}"
LISTS = [
    "/v1/jobs",
    "/v1/jobs?after={job}",
    "/v1/jobs?full=true",
    "/v1/jobs?status=queued",
    "/v1/jobs?status=succeeded&after={job}",
    "/v1/jobs?queue=default",
    "/v1/jobs?name=try",
    "/v1/jobs?name=try&after={job}",
    "/v1/jobs?tag=team:speech",
    "/v1/jobs?tag=team:nobody",
    "/v1/jobs?tag=team:speech&after={job}",
    "/v1/jobs?tag=team:speech&status=queued",
    "/v1/jobs?status=queued&queue=default&name=try",
    "/v1/jobs?dataset={dataset}",
    "/v1/jobs?dataset={dataset}&after={job}",
    "/v1/jobs?trials=false",
    "/v1/jobs?trials=false&after={job}",
    "/v1/jobs?trials=false&tag=team:speech&status=queued",
    ONE_QUEUED,
    "/v1/jobs/{job}/epochs",
    "/v1/jobs/{job}/steps",
    "/v1/jobs/{job}/events",
    "/v1/jobs/{job}/logs",
    "/v1/jobs/{job}/checkpoints",
    "/v1/batches",
    "/v1/batches?after={batch}",
    "/v1/batches/{batch}",
    "/v1/datasets",
    "/v1/datasets?name=toy",
    "/v1/models",
    "/v1/schedules",
    "/v1/webhooks",
    "/v1/keys",
    "/v1/audit",
    "/v1/inbox",
    "/v1/workers",
]
STATEMENTS = {
    ONE_QUEUED: 1,
    "/v1/jobs?status=succeeded": 1,
    "/v1/jobs?status=queued": 3,  # and whether the queue is long, and their places in it
    "/v1/jobs?tag=team:nobody": 1,
    "/v1/jobs/{job}/epochs": 2,  # whether there is such a job comes first
    "/v1/jobs/{job}/steps": 2,
    "/v1/batches": 2,
    "/v1/batches/{batch}": 3,
}


@pytest.fixture
def filled(any_app: Flask, spec: dict[str, Any], npz_bytes: Callable[..., bytes]) -> dict[str, str]:
    """Ids of a job and of a batch, of some that wait, and of a data set."""
    client = any_app.test_client()
    toy = client.post("/v1/datasets?name=toy", data=npz_bytes(), content_type="application/zip").get_json()["id"]
    batch = client.post("/v1/batches", json={"jobs": [spec, spec]}).get_json()["id"]
    posted = [client.post("/v1/jobs", json=spec).get_json()["id"] for _ in range(3)]
    return {"job": posted[1], "batch": batch, "dataset": toy}


@pytest.mark.parametrize("path", LISTS)
def test_no_list_or_filter_reads_a_whole_table_or_sorts_it(any_app: Flask, filled: dict[str, str], path: str) -> None:
    engine = any_app.extensions["loopline"].engine
    with statements(engine) as made:
        assert any_app.test_client().get(path.format(**filled)).status_code == 200
    assert made
    for statement in made:
        plan = plan_of(engine, statement)
        assert not scanned(plan) - SMALL, plan
        assert path in SORTED or not sorted_whole(plan), plan


def test_the_jobs_of_a_data_set_are_read_in_the_order_of_an_index(any_app: Flask, filled: dict[str, str]) -> None:
    engine = any_app.extensions["loopline"].engine
    with statements(engine) as made:
        assert any_app.test_client().get("/v1/jobs?dataset={dataset}".format(**filled)).status_code == 200
    [plan] = [plan_of(engine, each) for each in made if "FROM jobs" in each[0]]
    assert "ix_jobs_tenant_dataset_id_id" in plan


def test_the_jobs_that_are_no_trials_are_read_in_the_order_of_an_index(any_app: Flask, filled: dict[str, str]) -> None:
    engine = any_app.extensions["loopline"].engine
    with statements(engine) as made:
        assert any_app.test_client().get("/v1/jobs?trials=false").status_code == 200
    plan = plan_of(engine, next(each for each in made if "FROM jobs" in each[0]))
    assert "ix_jobs_tenant_id_no_trials" in plan


def test_a_claim_reads_no_whole_table(any_app: Flask, filled: dict[str, str]) -> None:
    engine = any_app.extensions["loopline"].engine
    with statements(engine) as made, db.session_scope(engine) as session:
        assert attempts.claim(session, "default", worker="w", lease_seconds=60) is not None
    for statement in made:
        plan = plan_of(engine, statement)
        assert not scanned(plan) - {"webhooks", "tenants", "lanes"}, plan


def test_whether_work_is_stuck_reads_no_whole_table(any_app: Flask, filled: dict[str, str]) -> None:
    engine = any_app.extensions["loopline"].engine
    with statements(engine) as made, db.read_scope(engine) as session:
        assert len(workers.stuck(session, 0.0)) == 1
        assert workers.runnable_for(session, ["default"], 0.0)
    for statement in made:
        plan = plan_of(engine, statement)
        assert "ix_jobs_queued " in plan or not re.search(r"\bjobs\b", plan), plan
        assert not scanned(plan) - SMALL - {"tenants", "lanes"}, plan
        assert not sorted_whole(plan), plan


@pytest.mark.parametrize(("epochs", "most"), [((5, 2, 1, 3, 4, 6), 1), ((9, 2, 12, 3, 5), 2)])
def test_epochs_come_as_one_value_in_their_order(
    any_app: Flask, filled: dict[str, str], epochs: tuple[int, ...], most: int
) -> None:
    """In one range of the table, and where some are missing by a second query."""
    client, engine, job = any_app.test_client(), any_app.extensions["loopline"].engine, filled["job"]
    records = {epoch: {"epoch": epoch, "train_loss": 1 / epoch, "said": 'schön, "so"'} for epoch in epochs}
    with db.session_scope(engine) as session:
        for epoch, record in records.items():
            session.execute(sa.insert(Epoch), [{"job_id": job, "epoch": epoch, "record": record}])
    for after in (0, 2, 4, 12):
        wanted = [records[epoch] for epoch in sorted(records) if epoch > after]
        for limit in (1, 3, 4, 5, 6):
            with statements(engine) as made:
                seen = client.get(f"/v1/jobs/{job}/epochs?after={after}&limit={limit}").get_json()
            assert (seen["data"], seen["has_more"]) == (wanted[:limit], len(wanted) > limit)
            assert client.get(f"/v1/jobs/{job}/epochs?after={after}&limit={limit}").get_json() == seen  # no listener
            joined = [one for one in made if re.search("group_concat|string_agg", one[0])]
            assert 1 <= len(joined) <= most
            with engine.connect() as connection:
                assert all(len(connection.exec_driver_sql(*each).all()) == 1 for each in joined)


@pytest.mark.parametrize(("path", "most"), STATEMENTS.items())
def test_a_request_asks_the_database_so_often(any_app: Flask, filled: dict[str, str], path: str, most: int) -> None:
    with statements(any_app.extensions["loopline"].engine) as made:
        assert any_app.test_client().get(path.format(**filled)).status_code == 200
    assert len(made) == most, made


def test_a_submission_takes_seven_statements(any_app: Flask, filled: dict[str, str], spec: dict[str, Any]) -> None:
    """What workers have, its tenant's limit, its place, itself, who listens, the audit, and what the answer says."""
    client = any_app.test_client()
    with statements(any_app.extensions["loopline"].engine) as made:
        assert client.post("/v1/jobs", json=spec).status_code == 202
    assert len(made) == 7, made


def test_a_submission_and_a_look_are_planned_once(any_app: Flask, filled: dict[str, str], spec: dict[str, Any]) -> None:
    """Both databases plan a statement anew for each value of a parameter of LIMIT."""
    client = any_app.test_client()
    with statements(any_app.extensions["loopline"].engine) as made:
        assert client.post("/v1/jobs", json=spec).status_code == 202
        assert client.get(ONE_QUEUED.format(**filled)).status_code == 200
    assert made
    assert not [text for text, _ in made if re.search(r"LIMIT (\?|%)", text)]


def test_a_304_and_a_long_poll_ask_once_a_look(any_app: Flask, filled: dict[str, str]) -> None:
    client, path = any_app.test_client(), ONE_QUEUED.format(**filled)
    tag = client.get(path).headers["ETag"]
    with statements(any_app.extensions["loopline"].engine) as made:
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    [(text, _)] = made
    assert "spec" not in text


def test_a_look_of_a_stream_asks_only_for_what_is_new(any_app: Flask, filled: dict[str, str]) -> None:
    """The job, its events and its log; its steps and epochs if the job's row says that there are more."""
    engine = any_app.extensions["loopline"].engine
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="w", lease_seconds=60)
        assert job is not None
        progress.record_steps(session, Lease.of(job), 1, [0.5], [1.0])
    counts = []
    for cursor in (Cursor(), Cursor(step=1)):
        with statements(engine) as made, db.read_scope(engine) as session:
            changes.of_job(session, job.id, cursor)
        counts.append(len(made))
    assert counts == [4, 3]


def test_a_list_has_no_specs_unless_it_is_asked_for_them(any_app: Flask, filled: dict[str, str]) -> None:
    client = any_app.test_client()
    with statements(any_app.extensions["loopline"].engine) as made:
        assert all("spec" not in job for job in client.get("/v1/jobs").get_json()["data"])
    assert not [text for text, _ in made if "spec" in text]
    full = client.get("/v1/jobs?full=true").get_json()["data"]
    assert [job["spec"] for job in full] == [client.get(job["links"]["self"]).get_json()["spec"] for job in full]


def test_the_places_in_a_list_are_those_of_each_job(any_app: Flask, spec: dict[str, Any]) -> None:
    client, engine = any_app.test_client(), any_app.extensions["loopline"].engine
    for number in range(6):
        client.post("/v1/jobs", json={**spec, "priority": number % 3, "queue": "night" if number == 4 else "default"})
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="w", lease_seconds=60)
        assert job is not None
        attempts.fail(session, Lease.of(job), "trainer_crashed", retry=True)  # it waits, and is not runnable
    listed = {job["id"]: job["queue"]["position"] for job in client.get("/v1/jobs").get_json()["data"]}
    assert listed == {job: client.get(f"/v1/jobs/{job}").get_json()["queue"]["position"] for job in listed}


@contextmanager
def statements(engine: Engine) -> Iterator[list[Statement]]:
    """The statements and parameters that reach the driver meanwhile."""
    made: list[Statement] = []

    def note(_connection: object, _cursor: object, text: str, parameters: Any, *_: object) -> None:
        if not text.startswith(("BEGIN", "SAVEPOINT", "RELEASE")):
            made.append((text, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield made
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def plan_of(engine: Engine, statement: Statement) -> str:
    text, parameters = statement
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            return "\n".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters))
        # Whatever an index can do is to be done by one, although the tables are small.
        for method in ("seqscan", "bitmapscan", "sort"):
            connection.exec_driver_sql(f"SET LOCAL enable_{method} = off")
        return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {text}", parameters))


def sorted_whole(plan: str) -> bool:
    """Whether all that was found is sorted, and not only what comes next in the order of an index."""
    return re.search(r"(?<!Incremental )Sort  \(|FOR ORDER BY", plan) is not None


def scanned(plan: str) -> set[str]:
    """The tables that are read as a whole."""
    tables = {table.name for table in Job.metadata.sorted_tables} | {"other"}
    found: Callable[[str], list[str]] = re.compile(r"(?:SCAN|Seq Scan on) (\w+)").findall
    return tables & set(found(plan))


@pytest.fixture
def counted_to_three(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if no more than three jobs were counted ahead of one."""
    monkeypatch.setattr(queries, "MAX_POSITION", 3)
    queries._last_counted.cache_clear()
    yield
    queries._last_counted.cache_clear()


@pytest.mark.usefixtures("counted_to_three")
def test_places_are_counted_so_far_and_no_further(any_app: Flask, spec: dict[str, Any]) -> None:
    client = any_app.test_client()
    made = [client.post("/v1/jobs", json=spec).get_json()["id"] for _ in range(5)]
    pages = [client.get(f"/v1/jobs?limit={limit}").get_json()["data"] for limit in (1, 5)]
    assert [[job["queue"]["position"] for job in page] for page in pages] == [[3], [3, 3, 2, 1, 0]]
    assert pages[1][0]["id"] == made[-1]


@pytest.mark.usefixtures("counted_to_three")
def test_of_a_long_queue_only_the_jobs_ahead_of_the_page_are_read(any_app: Flask, spec: dict[str, Any]) -> None:
    client, engine = any_app.test_client(), any_app.extensions["loopline"].engine
    for priority in (0, 0, 0, 0, 0, 2, 0, 1):
        client.post("/v1/jobs", json={**spec, "priority": priority})
    with statements(engine) as made:
        newest = client.get("/v1/jobs?limit=2").get_json()["data"]
    assert [job["queue"]["position"] for job in newest] == [1, 3]
    text, parameters = made[-1]
    with engine.connect() as connection:
        assert len(connection.exec_driver_sql(text, parameters).all()) == 1  # the one of priority 2
    listed = {job["id"]: job["queue"]["position"] for job in client.get("/v1/jobs").get_json()["data"]}
    assert listed == {job: client.get(f"/v1/jobs/{job}").get_json()["queue"]["position"] for job in listed}
    assert sorted(listed.values()) == [0, 1, 2, 3, 3, 3, 3, 3]
