"""The registry from the client's side: docs/models.md as it stands there, and what else the commands say."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopline import BadRequest, Client, Conflict, NotFound, ServiceUnreachable
from loopline.cli.app import app
from typer.testing import CliRunner, Result

from services import db
from services.jobs import queries
from tests.client.test_retries import hanging_up

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
Run = Callable[..., Result]


@pytest.fixture
def run(service: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command against the service, in an empty folder."""
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def trained(service: Any, client: Client, tiny: dict[str, Any]) -> Callable[[], str]:
    """Makes a job that has succeeded; its id."""

    def one() -> str:
        job_id = client.submit(tiny).id
        service.start(job_id)
        service.succeed(job_id)
        return job_id

    return one


def blocks(kind: str) -> Iterator[str]:
    yield from re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def work(service: Any, count: int) -> None:
    """Trains the next jobs that come, so to say."""
    for _ in range(count):
        assert service.bell.was_rung.wait(60)
        service.bell.was_rung.clear()
        with db.read_scope(service.engine) as session:
            [job] = queries.page(session.connection(), tenant="default", limit=20, status="queued").rows
        service.start(job.id)
        service.succeed(job.id)


def test_the_page_works_from_top_to_bottom(
    run: Run, service: Any, tmp_path: Path, in_background: Callable[..., Any]
) -> None:
    for folder in ("data", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    in_background(work, service, 3)
    told = {}
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line)
        assert words[0] == "loopline"
        done = run(*words[1:])
        assert done.exit_code == 0, (line, done.output)
        told[" ".join(words[1:3])] = done.stdout
        if words[1:4] == ["models", "demote", "vowels"]:
            for block in blocks("python"):
                exec(compile(block, "docs/models.md", "exec"), {})  # noqa: S102  (our own page)
    assert told["models rollback"] == "vowels@production is vowels@1 again.\n"
    whats = [line.split()[3:7] for line in told["models history"].splitlines()[1:]]
    assert [what[1:] for what in whats] == [
        ["rollback", "2", "1"],
        ["demote", "2", "-"],
        ["promote", "1", "2"],
        ["promote", "-", "2"],
        ["promote", "-", "1"],
    ]
    assert (tmp_path / "serving" / "vowels@2" / "model.json").exists()
    assert (tmp_path / "vowels" / "model.safetensors").exists()
    assert re.fullmatch(r"Deleted vowels@2; its job job_\w+ stays\.\n", told["models delete"])
    header, first = told["models list"].splitlines()
    assert re.split(" {2,}", header) == ["model", "production", "latest", "other aliases", "registered"]
    assert re.split(" {2,}", first) == ["vowels", "1: test accuracy 0.7500", "1: test accuracy 0.7500", "-", "just now"]


def test_a_version_is_shown_with_where_it_came_from(run: Run, trained: Callable[[], str]) -> None:
    job_id = trained()
    assert run("models", "list").stdout.startswith("No models yet.")
    assert run("models", "register", "tiny", "last", "--note", "a try").stdout == f"tiny@1 ({job_id})\n"
    assert run("models", "history", "tiny").stdout.startswith("No version of tiny was promoted yet")
    shown = run("models", "show", "tiny@latest").stdout
    assert re.search(rf"^job +{job_id}$", shown, re.MULTILINE)
    assert re.search(r"^data set +synthetic$", shown, re.MULTILINE)
    assert re.search(r"^model\.safetensors +7 kB, sha256 [0-9a-f]{64}$", shown, re.MULTILINE)
    assert "  architecture: " in shown
    [row] = run("models", "show", "tiny").stdout.splitlines()[1:]
    assert re.split(" {2,}", row) == ["tiny@1", "-", "test accuracy 0.7500", "synthetic", "just now", job_id, "a try"]


def test_every_answer_may_be_had_as_json(run: Run, trained: Callable[[], str]) -> None:
    for _ in range(2):
        version = json.loads(run("models", "register", "tiny", trained(), "--json").stdout)
        json.loads(run("models", "promote", f"tiny@{version['version']}", "--json").stdout)
    assert json.loads(run("models", "rollback", "tiny", "--json").stdout)["version"] == 1
    assert json.loads(run("models", "show", "tiny", "--json").stdout)["aliases"] == {"production": 1}
    assert json.loads(run("models", "show", "tiny@2", "--json").stdout) == version
    assert [model["name"] for model in json.loads(run("models", "list", "--json").stdout)] == ["tiny"]
    assert len(json.loads(run("models", "history", "tiny", "--json").stdout)) == 3


def test_a_list_for_a_script_asks_for_nothing_but_the_list(
    run: Run, client: Client, service: Any, trained: Callable[[], str]
) -> None:
    client.models.register("tiny", trained())
    client.models.promote("tiny@1")
    client.models.register("tiny", trained())
    for options in (("--json",), ("--csv", "-")):
        service.requests.clear()
        assert "tiny" in run("models", "list", *options).stdout
        assert [path for _, path, _ in service.requests] == ["/v1/models"]


def test_what_is_refused_is_an_error_of_its_kind(client: Client, run: Run, trained: Callable[[], str]) -> None:
    job_id = trained()
    client.models.register("tiny", job_id)
    with pytest.raises(BadRequest, match="Say which version to promote, such as tiny@3"):
        client.models.promote("tiny")
    with pytest.raises(Conflict, match="is the model tiny@1; delete the version first"):
        client.job(job_id).delete()
    with pytest.raises(NotFound, match="has no alias 'production'"):
        client.models.rollback("tiny")
    client.models.promote("tiny@latest", expected=0)
    with pytest.raises(Conflict) as refused:
        client.models.promote("tiny@1", alias="other", expected=1)
    assert refused.value.code == "alias_moved"
    done = run("models", "rollback", "tiny")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "promote the version that you want" in done.stderr
    with pytest.raises(NotFound):
        client.models.delete("tiny@7")


def test_a_promotion_whose_answer_is_lost_is_sent_again_and_a_rollback_is_not(
    client: Client, service: Any, trained: Callable[[], str]
) -> None:
    answer = service.app.wsgi_app
    for expected in (0, 1, 2):
        reference = client.models.register("tiny", trained()).reference
        service.wrap(hanging_up(times=1, then=answer))
        assert client.models.promote(reference, expected=expected).version == expected + 1
    service.wrap(hanging_up(times=1, then=answer))
    with pytest.raises(ServiceUnreachable):
        client.models.rollback("tiny")
    assert client.models.version("tiny@production").version == 2
    assert [move.action for move in client.models.history("tiny")] == ["rollback", "promote", "promote", "promote"]
