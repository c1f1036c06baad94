"""What waiting shows, and what it gives back."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import polars as pl
import pytest
from loopline import Batch, Client, Job, Result, Search, SucceededJob, WaitTimeout, tables, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_job_that_succeeded_has_its_result(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    with pytest.raises(WaitTimeout, match=f"Job {job.id} is queued: it has not ended"):
        job.check()
    service.complete(job.id)
    done = job.wait()
    assert isinstance(done, SucceededJob)
    assert done.result.metrics["validation_accuracy"] == 0.8
    assert done == client.job(job.id)
    assert Job.of({"id": "job_1", "status": "succeeded", "kind": "predict"}).result == Result()


def test_waiting_elsewhere_prints_a_line_when_something_changes(
    service: Any, client: Client, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str], in_background: Any
) -> None:
    job = client.submit(tiny)

    def work() -> None:
        service.seen(job.id)
        service.complete(job.id)

    in_background(work)
    heard: list[int] = []
    job.wait(on_epoch=lambda epoch: heard.append(epoch.epoch), progress=True)
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "tiny: queued, epoch 0 of 3"
    assert said.err.splitlines()[-1] == "tiny: succeeded, epoch 3 of 3, validation_loss 0.4333"
    assert said.out == ""
    assert heard == [1, 2, 3]


def test_a_terminal_shows_a_bar_of_80_columns_without_control_codes_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    job = Job("job_1", "running", name="a name that is longer than any bar\x1b[31m")
    with waiting.shown(lambda now: waiting.Stand(now.name or "", 0.5, "epoch\x1b[31m 3 of 6")) as show:
        show(job)
    assert "running, epoch 3 of 6" in stream.getvalue()
    assert "━" in stream.getvalue()
    assert "31m" not in stream.getvalue()


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What a notebook shows: a list, to which each picture is added."""
    shown: list[Job] = []

    def display(what: Job, display_id: bool) -> Any:
        shown.append(what)
        return SimpleNamespace(update=shown.append)

    kernel, module = ModuleType("IPython"), ModuleType("IPython.display")
    vars(kernel)["get_ipython"] = lambda: SimpleNamespace(kernel=None)
    vars(module)["display"] = display
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_a_notebook_shows_the_job_itself_and_updates_it(pictures: list[Job]) -> None:
    first, again, last = Job("job_1", "queued"), Job("job_1", "running"), Job("job_1", "failed", terminal=True)
    with waiting.shown(lambda job: waiting.Stand("job", 0.0, "")) as show:
        for each in (first, again, last):
            show(each)
    assert pictures == [first, last]


def test_a_notebook_draws_again_whenever_the_picture_is_old_enough(
    pictures: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4]
    jobs = [Job(f"job_{number}", "running") for number, _ in enumerate(seconds)]
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: at[-1]))
    at: list[float] = []
    with waiting.shown(lambda job: waiting.Stand("job", 0.0, "")) as show:
        for each, second in zip(jobs, seconds, strict=True):
            at.append(second)
            show(each)
    assert pictures == [jobs[0], jobs[3], jobs[6]]
    pictures.clear()
    monkeypatch.setattr(waiting, "DRAWN_SECONDS", 0.0)
    with waiting.shown(lambda job: waiting.Stand("job", 0.0, "")) as show:
        for each in jobs:
            show(each)
    assert pictures == jobs


@pytest.mark.parametrize(
    "ended",
    [
        Batch("batch_1", "succeeded", terminal=True, name="nightly", fraction=1.0, counts={"succeeded": 2}),
        Search("search_1", "succeeded", terminal=True, made=2, wanted=2),
    ],
    ids=["batch", "search"],
)
def test_batches_and_searches_show_how_far_they_are(
    ended: Batch | Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: Callable[..., Any] = lambda *_, **__: iter([ended])  # noqa: E731
    monkeypatch.setattr(type(ended), "changes", changes)
    assert ended.wait(progress=True) is ended
    said = {"batch_1": "nightly: succeeded, 2 succeeded\n", "search_1": "search_1: succeeded, 2 of 2 trials\n"}
    assert capsys.readouterr().err == said[ended.id]


def test_the_history_is_a_data_frame(service: Any, client: Client, tiny: dict[str, Any]) -> None:
    job = client.submit(tiny)
    service.complete(job.id)
    found = job.history()
    assert isinstance(found, pd.DataFrame)
    assert [*found["epoch"]] == [1, 2, 3]
    assert {"train_loss", "validation_accuracy", "lr", "grad_norm_mean", "clipped_fraction"} <= {*found.columns}
    other = job.history("polars")
    assert isinstance(other, pl.DataFrame)
    assert other["validation_accuracy"].to_list() == [0.6, 0.7, 0.8]
    assert [row["epoch"] for row in job.history("rows")] == [1, 2, 3]


def test_without_a_library_for_frames_there_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    assert tables.frame([{"a": 1}, {"b": None}]) == [{"a": 1}, {"b": None}]
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match="pip install polars"):
        tables.frame([], "polars")
    with pytest.raises(ValueError, match="say pandas, polars or rows"):
        tables.frame([], "excel")  # type: ignore[arg-type]


def test_a_frame_takes_rows_of_different_kinds() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 0.5, "c": None}]
    for library in tables.LIBRARIES:
        found = tables.frame(rows, library)
        assert [*found.columns] == ["a", "b", "c"]
        assert [*found["a"]] == [1, 0.5]


def test_a_frame_keeps_every_value_where_some_are_lists_or_mappings() -> None:
    found = [{"a": 0.5, "b": [1]}, {"a": {"name": "step"}, "b": "x"}, {"a": None}]
    assert tables.frame(found, "pandas")["a"].to_list() == [0.5, {"name": "step"}, None]
    frame = tables.frame(found, "polars")
    assert frame["a"].to_list() == ["0.5", '{"name": "step"}', None]
    assert frame["b"].to_list() == ["[1]", "x", None]
    assert tables.frame([{"a": [1, 2]}], "polars")["a"].to_list() == [[1, 2]]
