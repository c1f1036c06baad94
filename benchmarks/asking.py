"""What it costs to ask, and whether it costs more when there is more to ask about.

Three kinds of rows:

- The processor time of a request beside that of `/v1/health/live` in the same process: what the API does for it, the
  SQLite database included, PostgreSQL's own processes not. Requests come from Flask's test client, one at a time.
- The time of a request, a claim or a poll with 1,000,000 jobs beside the same with 1,000 (the fastest of many, so that
  other work on the machine counts little).
- Requests a second of eight clients, beside MLflow's server on the same machine (`benchmarks/tracking.py`).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.engine import Engine

from benchmarks import tracking
from benchmarks.cost import databases
from services import db
from services.access import tenants
from services.jobs import attempts, control, progress, series
from services.jobs.leases import Lease
from services.orm import Epoch, Job, Lane, StepChunk
from services.settings import Settings
from services.training.spec import parse

SPEC: dict[str, Any] = {
    "name": "vowels",
    "architecture": {"cell": "gru", "hidden_size": 128, "num_layers": 2, "bidirectional": True, "dropout": 0.3},
    "training": {"epochs": 20, "batch_size": 64, "optimizer": {"name": "adam", "lr": 1e-3}, "max_grad_norm": 1.0},
    "data": {"synthetic": {"samples": 1000, "length": 50, "features": 10, "classes": 2}},
    "tags": {"team": "speech", "stage": "trial"},
}
QUEUED, HISTORY = 10_000, 10_000
FEW, MANY = 1_000, 1_000_000
MOST_GROWTH = 1.5
JOBS_PER_BATCH = 20
HISTORY_SECONDS = 0.005
ALLOWED = {"a job": 3.0, "304": 2.0, "list of 20": 8.0, "list of 100 queued": 25.0}
"""Multiples of `/v1/health/live`."""


@dataclass
class Asked:
    """An API over a database, and its own clock."""

    client: FlaskClient
    engine: Engine

    def get(self, path: str, status: int = 200, **headers: str) -> Any:
        answer = self.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        assert answer.status_code == status, f"{path}: {answer.status_code} {answer.text[:200]}"
        return answer


class Silent:
    """A doorbell that nobody hears."""

    def ring(self, queue: str) -> bool:
        return True


@contextmanager
def api(url: str, folder: Path) -> Iterator[Asked]:
    from api.app import create_app

    app = create_app(Settings(data_dir=folder, database_url=url), bell=Silent())
    engine = app.extensions["loopline"].engine
    try:
        yield Asked(app.test_client(), engine)
    finally:
        engine.dispose()


# Filling


def template(engine: Engine, **changes: Any) -> str:
    """A queued job, as the API makes it; rows are copied from it."""
    with db.session_scope(engine) as session:
        wanted = control.Wanted(parse({**SPEC, **changes}), SPEC, dataset_id=None)
        return control.create_all(session, [wanted])[0].id


def numbers(count: int) -> Any:
    """The numbers from 1 to `count`, as a table."""
    one = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
    return one.union_all(sa.select(one.c.n + 1).where(one.c.n < count))


def text_of(engine: Engine, text: Any) -> Any:
    """A text as a value of a JSON column."""
    return sa.cast(text, sa.JSON) if engine.dialect.name == "postgresql" else sa.type_coerce(text, sa.Text)


def copies(engine: Engine, source: str, count: int, *, prefix: str = "job", **changes: Callable[[Any], Any]) -> None:
    """Insert copies of a job, with ids that sort by their number, and columns that depend on it."""
    n = numbers(count)
    digits = sa.cast(n.c.n, sa.Text)
    changed = {name: change(n.c.n) for name, change in changes.items()}
    changed["id"] = sa.literal(f"{prefix}_") + sa.func.substr(sa.literal("0" * 26) + digits, sa.func.length(digits) + 1)
    columns = [*Job.__table__.columns]
    values = [changed.get(column.name, column).label(column.name) for column in columns]
    query = sa.select(*values).select_from(sa.join(n, Job.__table__, Job.id == source))
    with untriggered(engine) as connection:
        connection.execute(sa.insert(Job.__table__).from_select([column.name for column in columns], query))
        connection.execute(sa.delete(Lane.__table__))  # no trigger has opened those of the copies
        place = (Job.__table__.c.queue, Job.__table__.c.priority, Job.__table__.c.tenant)
        opened = sa.select(*place, sa.literal(0.0), sa.literal(0.0), sa.true()).distinct()
        names = ["queue", "priority", "tenant", "turn", "last_turn", "has_jobs"]
        opened = opened.where(Job.__table__.c.status == "queued")
        connection.execute(sa.insert(Lane.__table__).from_select(names, opened))


@contextmanager
def untriggered(engine: Engine) -> Iterator[sa.Connection]:
    """A transaction in which no trigger minds that jobs begin at their end; nor are events written."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.text("ALTER TABLE jobs DISABLE TRIGGER USER"))
            yield connection
            connection.execute(sa.text("ALTER TABLE jobs ENABLE TRIGGER USER"))
            return
        found = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'jobs'")
        triggers = connection.execute(found).all()
        for name, _ in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        yield connection
        for _, statement in triggers:
            connection.exec_driver_sql(statement)


def fill(engine: Engine, count: int) -> None:
    """So many jobs of one tenant: a tenth waits, the others have ended; batches of twenty, two queues, a few names
    and tags."""
    source = template(engine)
    queued, ended = (sa.literal_column("'queued'"), sa.literal_column("'succeeded'"))
    failed = sa.literal_column("'failed'")

    def waits(n: Any) -> Any:
        return n % 10 == 0

    copies(
        engine,
        source,
        count - 1,
        status=lambda n: sa.case((waits(n), queued), (n % 10 == 1, failed), else_=ended),
        attempt=lambda n: sa.case((waits(n), 0), else_=1),
        priority=lambda n: n % 5,
        turn=lambda n: sa.cast(n, sa.Double),
        queue=lambda n: sa.case((n % 20 < 10, "default"), else_="night"),
        name=lambda n: sa.literal("name-") + sa.cast(n % 50, sa.Text),
        tags=lambda n: text_of(
            engine, sa.literal('{"team":"speech","fold":"') + sa.cast(n % 50, sa.Text) + sa.literal('"}')
        ),
        batch_id=lambda n: batch_id_of(n),
    )
    with engine.begin() as connection:
        n = numbers(max(count // JOBS_PER_BATCH, 1))
        named = sa.select(
            batch_id_of(n.c.n * JOBS_PER_BATCH).label("id"),
            sa.literal(tenants.DEFAULT).label("tenant"),
            text_of(engine, sa.literal("[]")).label("varied"),
            sa.literal(0.0).label("created_at"),
            sa.literal(1.0).label("ended_at"),
        )
        batches = sa.table("batches", *map(sa.column, ("id", "tenant", "varied", "created_at", "ended_at")))
        connection.execute(sa.insert(batches).from_select([*batches.c.keys()], named))
    settle(engine)


def batch_id_of(n: Any) -> Any:
    """The id of the batch of the job of this number."""
    digits = sa.cast(n / JOBS_PER_BATCH if False else (n - n % JOBS_PER_BATCH), sa.Text)
    return sa.literal("batch_") + sa.func.substr(sa.literal("0" * 26) + digits, sa.func.length(digits) + 1)


def settle(engine: Engine) -> None:
    """Let PostgreSQL look at what was put in at once, as it does by itself within a minute."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("SET statement_timeout = 0"))
            connection.execute(sa.text("VACUUM ANALYZE"))


def history(engine: Engine, job_id: str) -> None:
    """Many epochs and steps of a job, as a worker writes them."""
    record = {"train_loss": 0.123456789, "validation_loss": 0.23456789, "train_accuracy": 0.912345, "lr": 0.001}
    record |= {"validation_accuracy": 0.891234, "grad_norm_mean": 1.2345678, "grad_norm_max": 3.4567891, "seconds": 0.5}
    record |= {"clipped_fraction": 0.25, "samples_per_second": 12345.678, "train_macro_f1": 0.9, "step": 1}
    rows = [{"job_id": job_id, "epoch": n, "record": {"epoch": n, **record}} for n in range(1, HISTORY + 1)]
    each = progress.CHUNK_STEPS
    loss = np.random.default_rng(0).random(HISTORY, dtype=np.float32).tolist()
    chunks = [
        {
            "job_id": job_id,
            "first_step": first + 1,
            "last_step": min(first + each, HISTORY),
            "loss": series.pack(loss[first : first + each]),
            "grad_norm": series.pack(loss[first : first + each]),
        }
        for first in range(0, HISTORY, each)
    ]
    with db.session_scope(engine) as session:
        session.execute(sa.insert(Epoch), rows)
        session.execute(sa.insert(StepChunk), chunks)


# Measuring


def processor_seconds(acts: Sequence[Callable[[], object]], seconds: float = 2.0) -> Sequence[float]:
    """Of one of each call: the least of many short rounds, in turns, since other work on the machine can only add."""
    best = [float("inf")] * len(acts)
    began, rounds = time.perf_counter(), 0
    while rounds < 5 or time.perf_counter() < began + seconds:
        for number, act in enumerate(acts):
            times, at = 0, time.process_time()
            while times < 3 or time.process_time() < at + 0.004:
                act()
                times += 1
            best[number] = min(best[number], (time.process_time() - at) / times)
        rounds += 1
    return best


def fastest(acts: Sequence[Callable[[], object]], seconds: float = 1.0, least: int = 5) -> Sequence[float]:
    """Of each call the least time, of as many as fit into so many seconds; they take turns."""
    best = [float("inf")] * len(acts)
    began, done = time.perf_counter(), 0
    while done < least or time.perf_counter() < began + seconds:
        for number, act in enumerate(acts):
            at = time.perf_counter()
            act()
            best[number] = min(best[number], time.perf_counter() - at)
        done += 1
    return best


def cost_rows(name: str, asked: Asked) -> Iterator[dict[str, Any]]:
    engine = asked.engine
    job_id = template(engine)
    copies(engine, job_id, QUEUED, turn=lambda n: sa.cast(n, sa.Double))
    settle(engine)
    history(engine, job_id)
    tag = asked.get(f"/v1/jobs/{job_id}").headers["ETag"]
    asks = {
        "a job": lambda: asked.get(f"/v1/jobs/{job_id}"),
        "304": lambda: asked.get(f"/v1/jobs/{job_id}", 304, If_None_Match=tag),
        "list of 20": lambda: asked.get("/v1/jobs"),
        "list of 100 queued": lambda: asked.get("/v1/jobs?limit=100&status=queued"),
    }
    for what, ask in asks.items():
        live, took = processor_seconds([lambda: asked.get("/v1/health/live"), ask])
        yield {
            "what": f"processor time of {what}, {QUEUED:,} queued, {name}: beside the multiple of live that is allowed",
            "ours": f"{took * 1000:.2f} ms, {took / live:.1f} x live",
            "other": f"{ALLOWED[what]:g} x live of {live * 1000:.2f} ms",
            "ratio": ALLOWED[what] * live / took,
            "at_least": 1.0,
        }
    histories = {
        f"{HISTORY:,} epochs": f"/v1/jobs/{job_id}/epochs?limit={HISTORY}",
        f"{HISTORY:,} steps, 500 points": f"/v1/jobs/{job_id}/steps",
        f"{HISTORY:,} steps, each": f"/v1/jobs/{job_id}/steps?points={HISTORY}",
    }
    for what, path in histories.items():
        [took] = processor_seconds([lambda path=path: asked.get(path)])  # type: ignore[misc]
        yield {
            "what": f"processor time of {what}, {name}",
            "ours": f"{took * 1000:.2f} ms",
            "other": f"{HISTORY_SECONDS * 1000:g} ms",
            "ratio": HISTORY_SECONDS / took,
            "at_least": 1.0,
        }
    document = {**SPEC, "tags": {}}
    live, took = processor_seconds(
        [lambda: asked.get("/v1/health/live"), lambda: asked.client.post("/v1/jobs", json=document)]
    )
    yield {
        "what": f"processor time of POST /v1/jobs, {name}",
        "ours": f"{took * 1000:.2f} ms, {took / live:.1f} x live",
        "other": "",
        "ratio": None,
        "at_least": None,
    }


def questions(asked: Asked) -> Mapping[str, Callable[[], object]]:
    """Every list and filter, a look, a poll and a claim."""
    newest = asked.get("/v1/jobs").json["data"]
    waiting = asked.get("/v1/jobs?status=queued").json["data"]
    middle = "job_" + f"{count_of(asked.engine) // 2:026d}"
    tag = asked.get(f"/v1/jobs/{waiting[0]['id']}").headers["ETag"]
    batch = asked.get("/v1/batches").json["data"][0]["id"]
    filters = {
        "all": "",
        "after": f"after={middle}",
        **{f"status={status}": f"status={status}" for status in ("queued", "running", "succeeded", "failed")},
        "queue": "queue=night",
        "queue that has none": "queue=nothing",
        "name": "name=name-7",
        "name that no job has": "name=nothing",
        "tag of all": "tag=team:speech",
        "tag of some": "tag=fold:7",
        "tag that no job has": "tag=team:nobody",
        "status and queue": "status=failed&queue=night",
        "status and tag": "status=queued&tag=team:speech",
        "tag and after": f"tag=fold:7&after={middle}",
    }
    lists = {f"jobs, {what}": f"/v1/jobs?{query}" for what, query in filters.items()}
    paths = {
        **lists,
        "a queued job": f"/v1/jobs/{waiting[0]['id']}",
        "an ended job": f"/v1/jobs/{next(job['id'] for job in newest if job['terminal'])}",
        "batches": "/v1/batches",
        "a batch": f"/v1/batches/{batch}",
        **{
            f"{what}": f"/v1/{what}"
            for what in ("datasets", "models", "schedules", "webhooks", "keys", "audit", "inbox")
        },
        "workers": "/v1/workers",
    }
    asks: dict[str, Callable[[], object]] = {
        what: (lambda path=path: asked.get(path))  # type: ignore[misc]
        for what, path in paths.items()
    }
    asks["whether jobs are taken"] = lambda: asked.client.get("/v1/health/working")  # they are not, here
    asks["a poll without news"] = lambda: asked.get(f"/v1/jobs/{waiting[0]['id']}", 304, If_None_Match=tag)
    asks["a claim, given back"] = lambda: claim(asked.engine)
    return asks


def count_of(engine: Engine) -> int:
    with db.read_scope(engine) as session:
        return int(session.scalar(sa.select(sa.func.count()).select_from(Job)) or 0)


def claim(engine: Engine) -> None:
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "default", worker="bench", lease_seconds=3600)
        assert job is not None
        attempts.give_back(session, Lease.of(job))


def growth_rows(name: str, few: Asked, many: Asked) -> Iterator[dict[str, Any]]:
    questions_of_few, questions_of_many = questions(few), questions(many)
    worst = []
    for what in questions_of_few:
        small, large = fastest([questions_of_few[what], questions_of_many[what]])
        worst.append(small / large)
        yield {
            "what": f"{what}, {name}: with {MANY:,} jobs beside {FEW:,}",
            "ours": f"{large * 1000:.2f} ms",
            "other": f"{small * 1000:.2f} ms",
            "ratio": small / large,
            "at_least": 1 / MOST_GROWTH,
        }
    yield {
        "what": f"the worst and the median of these, {name}",
        "ours": f"{1 / min(worst):.2f} times as long",
        "other": f"{1 / statistics.median(worst):.2f} times",
        "ratio": None,
        "at_least": None,
    }


def rows() -> Iterator[dict[str, Any]]:
    """Costs, growth, and MLflow's server beside ours."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with databases(folder) as urls:
            for name, url in urls.items():
                with api(url, folder) as asked:
                    yield from cost_rows(name, asked)
        for name in urls:
            with grown(folder / name, name, FEW) as few, grown(folder / name, name, MANY) as many:
                yield from growth_rows(name, few, many)
    yield from tracking.rows()


@contextmanager
def grown(folder: Path, name: str, count: int) -> Iterator[Asked]:
    """An API over a fresh database of the kind `name` with so many jobs."""
    place = folder / str(count)
    place.mkdir(parents=True)
    with ExitStack() as stack:
        if name == "SQLite":
            url = f"sqlite:///{place}/asked.db"
            engine = db.engine(url)
            db.migrate(engine)
            engine.dispose()
        else:
            url = stack.enter_context(databases(place))[name]
        asked = stack.enter_context(api(url, place))
        fill(asked.engine, count)
        yield asked
