"""A hostile server: nothing that it says reaches a terminal as a command, whatever is asked and however it answers."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopline import Client, LooplineError, text, view
from loopline.cli import app
from typer.testing import CliRunner, Result

from tests.client.stub import Stub, plausible, stubbed
from tests.client.test_docs import COMMANDS

EVIL = "a\x1b]0;owned\x07b\x9b31mc\u202ed\u2066e\u200bf\u2028g\x7fh\x1b[2Ji\r\n"
OBEYED = re.compile(f"(?!\n)[{text.UNSEEN}]")
OWN = re.compile(r"\x1b\[[\d;]*m")
"""What our own console says to a terminal where nothing is drawn in place: colours."""

ARGUMENTS: dict[str, list[str]] = {
    "submit": ["job.yaml", "--wait"],
    "list": [],
    "presets": [],
    "workers": [],
    "health": [],
    "whoami": [],
    "download": ["last", "--to", "files"],
    "schedules list": [],
    "schedules set": ["nightly.yaml"],
    "schedules run": ["nightly", "--wait"],
    "batches list": [],
    "models list": [],
    "models register": ["vowels", "last"],
    "models promote": ["vowels@1"],
    "models demote": ["vowels", "candidate"],
    "models download": ["vowels@1", "--to", "files"],
    "models delete": ["vowels@1"],
    "datasets list": [],
    "datasets inbox": [],
    "datasets upload": ["small.npz"],
    "keys create": [],
    "keys list": [],
    "webhooks create": ["https://example.com/hook"],
    "webhooks list": [],
    "webhooks redeliver": ["wh_1", "msg_1"],
}
"""What stands after a command; a single id else."""


def evil(schema: dict[str, Any]) -> Any:
    """A leaf as a hostile server would say it: every text, also where one of a few words is promised."""
    is_text = schema.get("type", "string") == "string" and schema.get("format") != "date-time"
    return EVIL if is_text else plausible(schema)


def almost(schema: dict[str, Any]) -> Any:
    """The same with the few words as they are promised, so that the client goes on from there."""
    return plausible(schema) if "enum" in schema or "const" in schema else evil(schema)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stubbed() as started:
        started.file_name = "a\x1b]0;owned\x07.json"
        yield started


@pytest.fixture
def run(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, npz: Path) -> Callable[..., Result]:
    """Runs a command, with arguments that will do, in a folder with a spec, a schedule and a data set."""
    monkeypatch.setenv("LOOPLINE_URL", stub.url)
    monkeypatch.chdir(tmp_path)
    spec = {"preset": "basic_gru", "data": {"synthetic": {}}}
    Path("job.yaml").write_text(yaml.safe_dump(spec))
    Path("nightly.yaml").write_text(yaml.safe_dump({"cron": "30 2 * * *", "submit": spec}))

    def invoke(words: tuple[str, ...], *more: str) -> Result:
        arguments = ARGUMENTS.get(" ".join(words), ["last" if words != ("models", "show") else "vowels@1"])
        return CliRunner().invoke(app, ["--retry-seconds", "0", *words, *arguments, *more])

    return invoke


def takes_json(words: tuple[str, ...]) -> bool:
    return any("--json" in param.opts for param in COMMANDS[words].params)


@pytest.mark.parametrize("leaf", [evil, almost], ids=["every text", "all but the few words"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_nothing_that_a_server_says_is_obeyed(run: Any, stub: Stub, words: tuple[str, ...], leaf: Any) -> None:
    stub.leaf = leaf
    done = run(words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert OBEYED.findall(done.stdout + done.stderr) == []
    assert done.stdout + done.stderr


@pytest.mark.parametrize("words", [words for words in COMMANDS if takes_json(words)], ids=" ".join)
def test_json_stays_json_and_says_the_same(run: Any, stub: Stub, words: tuple[str, ...]) -> None:
    stub.leaf = almost
    done = run(words, "--json")
    assert OBEYED.findall(done.stdout + done.stderr) == []
    told = (
        [json.loads(line) for line in done.stdout.splitlines()]
        if words[0] in ("logs", "events")
        else [json.loads(done.stdout)]
    )
    assert json.dumps(EVIL)[1:-1] in json.dumps(told)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_refusal_is_obeyed_either(run: Any, stub: Stub, words: tuple[str, ...]) -> None:
    stub.leaf = evil
    for stub.status, codes in ((404, {2}), (422, {2}), (500, {3})):
        done = run(words)
        assert done.exit_code in codes
        assert OBEYED.findall(done.stdout + done.stderr) == []
        assert "owned" in done.stderr


def test_what_stands_in_headers_is_not_obeyed(run: Any, stub: Stub) -> None:
    stub.status = 302
    stub.headers = {"Location": "http://\x9b31m.example.com/", "Content-Type": "text/\x9b31m"}
    done = run(("list",))
    assert done.exit_code == 3
    assert OBEYED.findall(done.stdout + done.stderr) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_terminal_hears_of_colours_and_of_nothing_else(
    run: Any, stub: Stub, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.leaf = almost
    terminal, console = Terminal(), view.console
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(view, "console", lambda stream=None: console(terminal))
    done = run(words)
    lines = OWN.sub("", terminal.getvalue() + done.stdout + done.stderr)
    drawn = re.sub(r"\x1b\[(\?25[lh]|\d*[AK])|\r", "", lines) if words[-1] == "watch" else lines
    assert OBEYED.findall(drawn) == []


def test_an_error_of_the_library_is_fit_for_a_terminal_too(stub: Stub) -> None:
    stub.leaf, stub.status = evil, 422
    with Client(stub.url, retry_seconds=0) as client, pytest.raises(LooplineError) as caught:
        client.get("job_1")
    assert OBEYED.findall(str(caught.value) + str(caught.value.message)) == []
    assert caught.value.problems[0].detail == EVIL


def test_all_that_is_said_goes_through_the_filter() -> None:
    for file in (Path(__file__).parents[2] / "client" / "loopline").glob("*.py"):
        spoken = re.findall(
            r"typer\.s?echo\(|(?<![\w.])print\(|std(?:out|err)\.write|click\.echo|Console\(", file.read_text()
        )
        assert not spoken or file.name in ("notes.py", "view.py"), file.name
