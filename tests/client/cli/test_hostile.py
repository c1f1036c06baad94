"""A hostile server: nothing that it says reaches a terminal as a command, whatever is asked and however it answers."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopline import Client, LooplineError, ServiceError, ServiceUnreachable, http, text
from loopline.cli.app import app
from loopline.view import table
from typer.testing import CliRunner, Result

from tests.client.cli.test_docs import COMMANDS
from tests.client.stub import Stub, plausible, stubbed

EVIL = "a\x1b]0;owned\x07b\x9b31mc\u202ed\u2066e\u200bf\u2028g\x7fh\x1b[2Ji\r\n"
OBEYED = re.compile(f"(?!\n)[{text.UNSEEN}]")
OWN = re.compile(r"\x1b\[[\d;]*m")
"""What our own console says to a terminal where nothing is drawn in place: colours."""

ARGUMENTS: dict[str, list[str]] = {
    "datasets inspect": [],
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
    "search": ["job.yaml"],
    "searches list": [],
    "searches add": ["last", "3"],
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
    "predict": ["vowels@1", "--text", "a"],
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


OFFLINE = (("datasets", "inspect"), ("completion",))
ASKING = {words: command for words, command in COMMANDS.items() if words not in OFFLINE}
"""The commands that ask a service."""


def takes_json(words: tuple[str, ...]) -> bool:
    return any("--json" in param.opts for param in COMMANDS[words].params)


@pytest.mark.parametrize("leaf", [evil, almost], ids=["every text", "all but the few words"])
@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_nothing_that_a_server_says_is_obeyed(run: Any, stub: Stub, words: tuple[str, ...], leaf: Any) -> None:
    stub.leaf = leaf
    done = run(words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert OBEYED.findall(done.stdout + done.stderr) == []
    assert done.stdout + done.stderr


SAYING = [words for words in ASKING if takes_json(words) and words != ("reproduce",)]
"""Those that print what it says as JSON. Before it prints any, `reproduce` downloads a model, which no stub has."""


@pytest.mark.parametrize("words", SAYING, ids=" ".join)
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


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_no_refusal_is_obeyed_either(run: Any, stub: Stub, words: tuple[str, ...]) -> None:
    stub.leaf = evil
    for stub.status, codes in ((404, {2}), (422, {2}), (500, {3})):
        done = run(words)
        assert done.exit_code in codes
        assert OBEYED.findall(done.stdout + done.stderr) == []
        assert "owned" in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_nothing_in_a_file_is_obeyed(run: Any, tmp_path: Path, options: list[str]) -> None:
    name = EVIL.replace("\r\n", "")
    rows = "".join(f"{place},{place % 5},{name}{place % 2}\n" for place in range(60))
    (tmp_path / "evil.csv").write_text(f"t,{name},label\n{rows}", encoding="utf-8", newline="")
    done = run(("datasets", "inspect"), str(tmp_path / "evil.csv"), *options)
    assert done.exit_code in (0, 1)
    assert OBEYED.findall(done.stdout + done.stderr) == []
    assert "owned" in done.stdout


def test_what_stands_in_headers_is_not_obeyed(run: Any, stub: Stub) -> None:
    stub.status = 302
    stub.headers = {"Location": "http://\x9b31m.example.com/", "Content-Type": "text/\x9b31m"}
    done = run(("list",))
    assert done.exit_code == 3
    assert OBEYED.findall(done.stdout + done.stderr) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_a_terminal_hears_of_colours_and_of_nothing_else(
    run: Any, stub: Stub, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.leaf = almost
    terminal, console = Terminal(), table.console
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(table, "console", lambda stream=None: console(terminal))
    done = run(words)
    lines = OWN.sub("", terminal.getvalue() + done.stdout + done.stderr)
    drawn = re.sub(r"\x1b\[(\?25[lh]|\d*[AK])|\r", "", lines) if words[-1] == "watch" or words[0] == "train" else lines
    assert OBEYED.findall(drawn) == []


def test_an_error_of_the_library_is_fit_for_a_terminal_too(stub: Stub) -> None:
    stub.leaf, stub.status = evil, 422
    with Client(stub.url, retry_seconds=0) as client, pytest.raises(LooplineError) as caught:
        client.job("job_1")
    assert OBEYED.findall(str(caught.value) + str(caught.value.message)) == []
    assert caught.value.problems[0].detail == EVIL


FILTERED = ("view/notes.py", "view/table.py", "loopline/waiting.py")
"""What speaks, and filters it. The last one has `wait(progress=True)` of the library: see test_waiting.py."""


def test_all_that_is_said_goes_through_the_filter() -> None:
    for file in (Path(__file__).parents[3] / "client" / "loopline").rglob("*.py"):
        spoken = re.findall(
            r"typer\.s?echo\(|(?<![\w.])print\(|std(?:out|err)\.write|click\.echo|Console\(", file.read_text()
        )
        assert not spoken or f"{file.parent.name}/{file.name}" in FILTERED, file


WRONG = [[], {}, "word", True, -1, 2**70, [[1]], {"a": {"a": 1}}, "2026-13-01T00:00:00"]


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_wrong_kinds_are_no_traceback_and_no_failed_job(run: Any, stub: Stub, words: tuple[str, ...]) -> None:
    def check() -> None:
        done = run(words)
        # 1 says of nothing but `webhooks test` that something went wrong that the service knows of.
        assert done.exit_code in (0, 2, 3, 4) or words == ("webhooks", "test"), done.exception
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "cannot go on" not in done.stderr, done.stderr

    for wrong in WRONG[:: 1 + len(WRONG) // 3]:
        stub.change = lambda answer, wrong=wrong: wrong if answer else answer
        check()
        stub.change = lambda answer, wrong=wrong: (
            answer | {"data": wrong} if "data" in answer else dict.fromkeys(answer, wrong)
        )
        check()
    stub.change = lambda answer: answer
    for number in range(4):
        leaves = iter(range(number, 10_000))

        def leaf(schema: dict[str, Any], leaves: Iterator[int] = leaves) -> Any:
            at = next(leaves)
            wrong = WRONG[at % len(WRONG)]
            return wrong if at % 3 == 0 and wrong.__hash__ else plausible(schema)

        stub.leaf = leaf
        check()


def test_a_list_that_does_not_end_is_left(run: Any, stub: Stub) -> None:
    stub.change = lambda answer: answer | {"has_more": True}
    done = run(("datasets", "list"))
    assert done.exit_code == 3
    assert "a list goes on and on with the same `id`" in done.stderr


def test_a_list_of_ever_new_entries_is_left_too(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(10_000))
    stub.change = lambda answer: {"data": [answer["data"][0] | {"id": f"ds_{next(numbers)}"}], "has_more": True}
    monkeypatch.setattr(http, "MOST_PAGES", 20)
    with Client(stub.url) as client, pytest.raises(ServiceError, match="more than 20 pages"):
        list(client.datasets.list())


@contextmanager
def saying(*said: bytes, again: bytes, go: threading.Event) -> Iterator[str]:
    """A server that says this to whoever comes, and then the same over and over, each time that somebody reads it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(65536)
                        connection.sendall(b"".join(said))
                        while not go.wait(0.01):
                            connection.sendall(again)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        go.set()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_body_that_trickles_in_is_given_up(tmp_path: Path) -> None:
    with (
        saying(HEAD, again=b"1\r\n \r\n", go=threading.Event()) as url,
        Client(url, timeout=0.3, retry_seconds=0) as client,
    ):
        with pytest.raises(ServiceUnreachable, match="its answer does not end"):
            client.job("job_1")
        with pytest.raises(ServiceUnreachable, match="sends next to nothing"):
            client.models.download("vowels@1", tmp_path / "files")


def test_a_body_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 1 << 20)
    block = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with (
        saying(HEAD, again=block, go=threading.Event()) as url,
        Client(url, retry_seconds=0) as client,
        pytest.raises(ServiceError, match="more than 1,048,576 bytes"),
    ):
        client.job("job_1")


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 200_000, b'{"id": NaN}', b'{"id": 1' + b"0" * 5000 + b"}", b"\xff\xfe", b""]
)
def test_what_is_no_json_is_not_loopline(stub: Stub, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub, "answer", lambda method, path: (200, "application/json", body))
    with Client(stub.url, retry_seconds=0) as client, pytest.raises(ServiceError, match="does not speak Loopline"):
        client.job("job_1")


def test_a_body_that_is_not_compressed_as_it_says_is_not_loopline(stub: Stub) -> None:
    stub.headers = {"Content-Encoding": "gzip"}
    with Client(stub.url, retry_seconds=0) as client, pytest.raises(ServiceError, match="not compressed as it says"):
        client.job("job_1")


@pytest.mark.parametrize("line", [["datasets", "list"], ["list", "--json"], ["watch", "last"]], ids=" ".join)
def test_whoever_has_closed_the_pipe_hears_nothing_of_a_failed_job(stub: Stub, line: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "loopline.cli", "--url", stub.url, *line]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
