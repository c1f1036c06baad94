"""What is told of a job: events in order, log lines within bounds."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.jobs import attempts, control, events, progress
from services.jobs.events import MAX_LINE, MAX_LINES, Line
from services.jobs.leases import Lease
from services.orm import LogLine

Scope = Callable[[], AbstractContextManager[Session]]
ROOT = Path(__file__).parents[3]


def test_events_ascend_and_come_in_pages(engine: Engine, lease: Lease, scope: Scope) -> None:
    with scope() as session:
        progress.started(session, lease, epochs=3, steps_per_epoch=2, info={"resumed_from": {"epoch": 1, "step": 2}})
        progress.checkpoint(
            session, lease, epoch=2, step=4, best=True, files=[{"name": "x", "bytes": 2_000_000, "sha256": ""}]
        )
        control.pause(session, lease.job_id)
        control.resume(session, lease.job_id)
        events.note(session, lease, "micro_batch", "Smaller parts.", "warning", {"size": 32})
        attempts.succeed(session, lease, {}, [])
    with db.read_scope(engine) as session:
        told = events.page(session, lease.job_id)[0]
        kinds = ["status", "status", "resumed", "checkpoint", "request", "request", "micro_batch", "status"]
        assert [row.type for row in told] == kinds
        assert [row.id for row in told] == sorted(row.id for row in told)
        pages = [events.page(session, lease.job_id, after=after, limit=3)[0] for after in (0, told[2].id, told[5].id)]
        assert [row for page in pages for row in page] == told
    assert told[3].message == "Checkpoint at step 4 (epoch 2), 2.0 MB, of the best epoch."
    assert (told[6].level, told[6].data, told[6].attempt, told[6].worker) == ("warning", {"size": 32}, 1, "host:1")


@pytest.mark.parametrize("level", ["loud", "output"])
def test_what_nobody_foresaw_is_told_all_the_same(engine: Engine, lease: Lease, scope: Scope, level: str) -> None:
    with scope() as session:
        events.note(session, lease, "strange", "\x00\ud800" + "x" * 9999, level)
        told = events.page(session, lease.job_id)[0][-1]
        assert (told.type, told.level) == ("warning", "info")
        assert str(told.message).startswith("?xxx")
        assert len(str(told.message)) < 4100


def test_what_a_trainer_notes_has_a_type_of_its_own() -> None:
    """But for suspicions about data, which are warnings."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "services" / "training").rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    notes = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Note"]
    types = {argument.value for argument in notes if isinstance(argument, ast.Constant)}
    assert {"engine", "micro_batch", "export"} < types
    assert types - {"suspicion"} <= {*events.Type}


def test_log_lines_are_numbered_over_all_attempts(engine: Engine, lost_lease: Lease, scope: Scope) -> None:
    second = Lease(lost_lease.job_id, 2)
    with scope() as session:
        events.log(session, second, [Line("output", "one"), Line("warning", "two\x00")])
        events.log(session, second, [])
        events.log(session, second, [Line("info", "y" * (MAX_LINE + 5))])
        lines = events.lines(session, second.job_id)[0]
        assert [(line.number, line.level, line.text[:5], line.attempt) for line in lines] == [
            (1, "output", "one", 2),
            (2, "warning", "two", 2),
            (3, "info", "yyyyy", 2),
        ]
        assert len(lines[2].text) == MAX_LINE + 1
        assert [line.number for line in events.lines(session, second.job_id, after=1, limit=1)[0]] == [2]


@pytest.mark.parametrize("batch", [1500, MAX_LINES + 500])
def test_of_a_long_log_the_newest_lines_are_kept(engine: Engine, lease: Lease, scope: Scope, batch: int) -> None:
    for _ in range(2):
        with scope() as session:
            job = events.log(session, lease, [Line("output", "x")] * batch)
    assert job.log_lines == 2 * batch
    with db.read_scope(engine) as session:
        first, last, count = session.execute(
            sa.select(sa.func.min(LogLine.number), sa.func.max(LogLine.number), sa.func.count())
        ).one()
    assert (first, last, count) == (2 * batch - MAX_LINES + 1, 2 * batch, MAX_LINES)
