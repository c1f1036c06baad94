"""Every view on terminals of common widths: no id goes, no word is cut, and no column is two letters wide."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loopline.cli.app import app
from loopline.view import table
from typer.testing import CliRunner, Result

from tests.client.cli.test_terminal import Terminal, command, environment
from tests.client.stub import FIXED, Stub, stubbed

NOTE = "retrained after the microphones were replaced, with the recordings of March left out"
NAMED = {
    **FIXED,
    "id": "job_01m853n1rkpk37h2njbfqkjvrb",
    "job_id": "job_01m853n1rkpk37h2njbfqkjvrb",
    "batch_id": "batch_01m8534rdzpk2b2nwmwmj4v6dg",
    "search_id": "search_01m8534rdzpk2b2nwmwmj4v6dg",
    "dataset_id": "ds_01m8534rdzpk2b2nwmwmj4v6dg",
    "created_by": "key_01m8534rdzpk2b2nwmwmj4v6dg",
    "by": "key_01m8534rdzpk2b2nwmwmj4v6dg",
    "name": "speakers[hidden_size=64, lr=0.0003]",
    "model": "speakers-of-vowels",
    "note": NOTE,
    "reason": NOTE,
    "message": NOTE,
    "last_error": NOTE,
    "error": NOTE,
    "url": "https://hooks.example.com/services/loopline/production",
}
VIEWS = [
    ["list"],
    ["show", "last"],
    ["compare", "last", "job_2"],
    ["workers"],
    ["whoami"],
    ["presets"],
    ["batches", "list"],
    ["batches", "show", "last"],
    ["searches", "list"],
    ["searches", "show", "last"],
    ["datasets", "list"],
    ["datasets", "show", "vowels"],
    ["datasets", "inbox"],
    ["models", "list"],
    ["models", "show", "vowels"],
    ["models", "show", "vowels@1"],
    ["models", "history", "vowels"],
    ["schedules", "list"],
    ["schedules", "show", "nightly"],
    ["schedules", "history", "nightly"],
    ["keys", "list"],
    ["webhooks", "list"],
    ["webhooks", "show", "wh_1"],
    ["webhooks", "deliveries", "wh_1"],
]
ID = re.compile(r"\b(?:job|batch|ds|key|msg|wh)_[0-9a-z]{26}\b")


class Wide(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stubbed() as started:
        started.named = NAMED
        yield started


@pytest.fixture
def shown(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command prints on a terminal of so many columns, without its colours."""
    console = table.console
    monkeypatch.setenv("LOOPLINE_URL", stub.url)
    monkeypatch.setenv("TERM", "xterm-256color")

    def run(line: list[str], columns: int) -> str:
        stream = Wide()
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(table, "console", lambda _stream=None: console(stream))
        done: Result = CliRunner().invoke(app, line, catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())

    return run


@pytest.mark.parametrize("line", VIEWS, ids=" ".join)
def test_every_view_shows_every_id_and_note_and_fits(shown: Callable[..., str], line: list[str]) -> None:
    wide = shown(line, 400)
    for columns in (80, 100, 120):
        narrow = shown(line, columns)
        assert set(ID.findall(narrow)) == set(ID.findall(wide))
        before_spec = re.split(r"^(?:spec|submit)$", narrow, flags=re.MULTILINE)[0]
        assert max(map(len, before_spec.splitlines())) <= columns
        assert (NOTE in " ".join(narrow.split())) == (NOTE in wide), narrow
        assert len(narrow.splitlines()) <= 4 * len(wide.splitlines()) + 4, narrow


def test_notes_of_versions_stand_on_a_line_of_their_own(shown: Callable[..., str]) -> None:
    narrow = shown(["models", "show", "vowels"], 80)
    assert f"note: {NOTE}"[:70] in narrow
    assert "data: " in narrow


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_a_terminal_of_its_own_shows_the_same(stub: Stub, columns: int) -> None:
    views = (
        ["batches", "show", "last"],
        ["searches", "show", "last"],
        ["models", "show", "vowels"],
        ["datasets", "list"],
    )
    for line in views:
        terminal = Terminal(command(*line), environment(stub.url), rows=40, columns=columns)
        assert terminal.end() == 0
        assert ID.search(terminal.text)
        table = [
            row
            for row in terminal.text.replace("\r", "").splitlines()
            if not row.startswith(("Batch", "Search", "The best", "The final", "The spec", "Importance", NOTE))
        ]
        assert max(map(len, table)) <= columns


def jobs(*reached: float | None) -> Callable[[Any], Any]:
    """Changes a batch: its jobs have reached this, and those with None have failed."""

    def change(batch: dict[str, Any]) -> dict[str, Any]:
        if "jobs" not in batch:  # a list of batches
            return batch
        row = batch["jobs"][0]
        rows = [
            row
            | {"id": f"job_{number:026}", "name": f"cell {number}", "best": None, "message": None, "reason": None}
            | {"status": "failed" if value is None else "succeeded"}
            | {"metrics": {} if value is None else {"test_rmse": value}}
            for number, value in enumerate(reached)
        ]
        ended = sum(value is not None for value in reached)
        return batch | {"jobs": rows, "counts": {"succeeded": ended}, "total": len(rows), "name": "nightly"}

    return change


def test_a_batch_puts_the_best_first_and_names_it(stub: Stub, shown: Callable[..., str]) -> None:
    stub.change = jobs(0.5, None, 0.25, 0.75)
    table = shown(["batches", "show", "last"], 100)
    assert re.findall(r"cell (\d)", table) == ["2", "0", "3", "1"]
    done = CliRunner().invoke(app, ["batches", "show", "last"])
    assert done.stdout.splitlines()[-1].partition(". ")[2] == f"The best is cell 2: test_rmse 0.2500 (job_{2:026})."


def test_of_one_job_there_is_no_best(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPLINE_URL", stub.url)
    stub.change = jobs(0.5)
    assert "The best" not in CliRunner().invoke(app, ["batches", "show", "last"]).stdout


def test_a_models_number_is_that_of_its_version(stub: Stub, shown: Callable[..., str]) -> None:
    """The version in production beside the newest one, each with what it reached."""

    def change(answer: dict[str, Any]) -> dict[str, Any]:
        if "data" in answer:
            [model] = answer["data"]
            newest = model["latest"] | {"version": 5, "metrics": {"test_accuracy": 0.5}}
            return answer | {"data": [model | {"latest": newest, "aliases": {"production": 3, "candidate": 5}}]}
        return answer | {"version": 3, "metrics": {"test_accuracy": 0.9}}

    stub.change = change
    table = shown(["models", "list"], 120)
    assert re.search(r"3: test accuracy 0\.9000 +5: test accuracy 0\.5000 +candidate: 5", table), table


def test_an_alias_that_is_new_is_told(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPLINE_URL", stub.url)
    stub.named = NAMED | {"name": "speakers-of-vowels"}
    stub.change = lambda answer: answer | {"aliases": {"production": 1} if "latest" in answer else []}
    slip = CliRunner().invoke(app, ["models", "promote", "vowels@1", "--alias", "prodution"])
    meant = "Did you mean production? Take this one away with: loopline models demote speakers-of-vowels prodution"
    assert slip.stderr == f"prodution is a new alias of speakers-of-vowels. {meant}\n"
    assert CliRunner().invoke(app, ["models", "promote", "vowels@1"]).stderr == ""
    other = CliRunner().invoke(app, ["models", "promote", "vowels@1", "--alias", "canary", "--json"])
    assert other.stderr == "canary is a new alias of speakers-of-vowels.\n"
    assert json.loads(other.stdout)["model"] == "speakers-of-vowels"
