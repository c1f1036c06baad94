"""Whether it costs a claim more that tenants take turns, and whether it costs more with more jobs, tenants or batches.

A small and a large database of each kind, with the same two queues: one of many tenants, whose jobs all could go next,
and one of a single large batch beside another tenant's jobs. A row has the fastest of many claims, taken in turns from
both, so that other work on the machine counts little.

A plain claim is one without turns: the first queued job, by priority and id, that nobody else holds. It has the index
that it needs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from benchmarks.asking import copies, settle, template
from benchmarks.cost import CLAIMS as AT_ONCE
from benchmarks.cost import claimers, databases, seconds_of_round
from services import db
from services.jobs import attempts
from services.orm import Job

FEW, MANY = 1_000, 1_000_000
TENANTS = {FEW: 2, MANY: 1_000}
BATCH = {FEW: 1_000, MANY: 100_000}
BESIDE = 500
MOST_GROWTH = 1.5
MOST_BESIDE_PLAIN = 1.25
CLAIMS, ROUNDS = 80, 6


def fill(engine: Engine, count: int) -> None:
    """The queues `tenants` and `batch` for turns, `alone`, of which nobody else wants a turn, and `plain`."""
    with engine.begin() as connection:
        index = "CREATE INDEX plain ON jobs (queue, priority DESC, id, not_before) WHERE status = 'queued'"
        connection.exec_driver_sql(index)
    many_of = {"tenants": count, "batch": BATCH[count], "beside": BESIDE, "alone": FEW, "plain": FEW}
    for queue, many in many_of.items():
        named = {"tenants": lambda n: sa.literal("tenant-") + sa.cast(n % TENANTS[count], sa.Text)}
        source = template(engine, queue="batch" if queue == "beside" else queue)
        changes: dict[str, Callable[[Any], Any]] = {"turn": lambda n: n * 1.0}
        if queue in named:
            changes["tenant"] = named[queue]
        if queue == "batch":
            changes["batch_id"] = lambda n: sa.literal("batch_large")
        if queue == "beside":
            changes["tenant"] = lambda n: sa.literal("beside")
        copies(engine, source, many, prefix=queue, **changes)
    settle(engine)


def claim(engine: Engine, queue: str) -> float:
    """Seconds of a claim, up to its commit: what the disk takes for that is the same for all."""
    with db.session_scope(engine) as session:
        session.connection()
        began = time.perf_counter()
        assert attempts.claim(session, queue, worker="bench", lease_seconds=3600) is not None
        return time.perf_counter() - began


def fastest(*queues: tuple[Engine, str]) -> Sequence[float]:
    """The fastest claim of each queue; they take turns."""
    took = [[claim(*each) for each in queues] for _ in range(CLAIMS)]
    return [min(each) for each in zip(*took, strict=True)]


def together(name: str, few: Engine) -> Iterator[dict[str, object]]:
    """One claimer, and eight at once."""
    url = few.url.render_as_string(hide_password=False)
    ways = {"tenants": "ours", "alone": "ours", "plain": "plain"}
    label = {"alone": "beside a tenant that is alone", "plain": "beside plain claims"}
    for count in (1, 8):
        took: dict[str, list[float]] = {queue: [] for queue in ways}
        with claimers(url, count) as processes:
            for turn in range(ROUNDS + 1):
                for queue, way in ways.items():
                    one = seconds_of_round(processes, queue, way)
                    took[queue] += [one] if turn else []  # the first one opens connections and fills caches
        rate = {queue: AT_ONCE / min(took[queue]) for queue in ways}
        who = "1 claimer" if count == 1 else f"{count} claimers"
        for other, beside in label.items():
            yield {
                "what": f"claims a second on {name}, {who}: two tenants take turns {beside}",
                "ours": f"{rate['tenants']:.0f}/s",
                "other": f"{rate[other]:.0f}/s",
                "ratio": rate["tenants"] / rate[other],
                "at_least": 1 / MOST_BESIDE_PLAIN if other == "plain" else None,
            }


@contextmanager
def filled(folder: Path, name: str, count: int) -> Iterator[Engine]:
    place = folder / f"{name}-{count}"
    place.mkdir(parents=True)
    with ExitStack() as stack:
        if name == "SQLite":
            engine = db.engine(f"sqlite:///{place}/turns.db")
            db.migrate(engine)
        else:
            engine = db.engine(stack.enter_context(databases(place))[name])
        fill(engine, count)
        yield engine
        with engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).where(Job.status == "running"))
        engine.dispose()


def row(what: str, ours: float, other: float) -> dict[str, object]:
    return {
        "what": what,
        "ours": f"{ours * 1000:.2f} ms",
        "other": f"{other * 1000:.2f} ms",
        "ratio": other / ours,
        "at_least": 1 / MOST_GROWTH,
    }


def rows() -> Iterator[dict[str, object]]:
    """Claims with many jobs, tenants and a large batch, beside few; and turns beside a tenant that is alone."""
    with tempfile.TemporaryDirectory() as place:
        for name in ("SQLite", "PostgreSQL"):
            with filled(Path(place), name, FEW) as few, filled(Path(place), name, MANY) as many:
                small, large = fastest((few, "tenants"), (many, "tenants"))
                label = f"{MANY:,} jobs of {TENANTS[MANY]:,} tenants beside {FEW:,} jobs of {TENANTS[FEW]}"
                yield row(f"a claim on {name} with {label}", large, small)
                small, large = fastest((few, "batch"), (many, "batch"))
                label = f"a batch of {BATCH[MANY]:,} and another tenant beside one of {BATCH[FEW]:,}"
                yield row(f"a claim on {name} with {label}", large, small)
                alone, turn = fastest((few, "alone"), (few, "tenants"))
                label = "two tenants take turns beside a tenant that is alone"
                yield row(f"a claim on {name} when {label}", turn, alone) | {"at_least": None}
                yield from together(name, few)
