"""`python -m services`: tenants and keys, made on the host that has the database."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services import __main__ as command
from services import db
from services.access import keys
from services.orm import ApiKey

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on a fresh database; its exit status, and what it printed to stdout and stderr."""
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", database_url)

    def one(*arguments: str) -> tuple[int, str, str]:
        status = command.main(arguments)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return one


def test_a_tenant_and_its_first_key(run: Run, database_url: str) -> None:
    status, out, err = run("tenants", "create", "acme", "--max-queued", "10", "--max-bytes", "none")
    assert (status, out) == (0, "")
    assert "python -m services keys create --tenant acme" in err
    status, out, err = run("keys", "create", "--tenant", "acme", "--scopes", "read, admin", "--name", "ops")
    assert status == 0
    assert re.fullmatch(r"ll_[0-9a-z]{26}_[0-9a-f]{64}\n", out)
    assert "of the tenant acme may read, admin and does not end by itself" in err
    engine = db.engine(database_url)
    with db.read_scope(engine) as session:
        assert keys.verify(session, out.strip()).tenant == "acme"
    engine.dispose()


def test_tenants_are_listed_and_their_limits_changed(run: Run) -> None:
    run("tenants", "create", "acme", "--max-queued", "10")
    status, out, _ = run("tenants", "set", "acme", "--max-queued", "none", "--max-running", "2", "--share", "2.5")
    assert status == 0
    row = r"acme    0 / -   0 / 2    0 / -  2.5    \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.search(row, out)
    status, out, _ = run("tenants", "set", "acme", "--share", "none")
    assert re.search(row.replace("2.5", "-  "), out)
    _, out, _ = run("tenants", "list")
    assert [line.split()[0] for line in out.splitlines()] == ["tenant", "acme", "default"]


def test_a_key_is_listed_and_revoked(run: Run) -> None:
    text = run("keys", "create", "--expires-days", "30")[1].strip()
    _, out, _ = run("keys", "list", "--tenant", "default")
    key_id = out.splitlines()[1].split()[0]
    assert key_id.removeprefix("key_") in text
    assert text.rpartition("_")[2] not in out
    status, out, err = run("keys", "revoke", key_id)
    assert (status, out) == (0, "")
    assert f"{key_id} of the tenant default is revoked" in err
    assert "revoked 2" in run("keys", "list")[1]
    _, out, _ = run("audit", "--tenant", "default")
    assert [line.split()[3] for line in out.splitlines()] == ["action", "key.revoke", "key.create"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tenants", "create", "default"), "There is a tenant default already"),
        (("tenants", "create", "No Name"), "is no name for a tenant"),
        (("tenants", "set", "nobody", "--max-queued", "1"), "There is no tenant nobody"),
        (("tenants", "set", "default", "--max-bytes", "-1"), "/max_bytes: must be 0 or more"),
        (("keys", "create", "--scopes", "write"), "/scopes: must be one or more of read, predict, submit, admin"),
        (("keys", "create", "--tenant", "nobody"), "There is no tenant nobody"),
        (("keys", "revoke", "key_1"), "There is no API key key_1"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(run: Run, arguments: tuple[str, ...], told: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert told in err


def test_lists_of_nothing_say_so(run: Run) -> None:
    assert run("keys", "list") == (0, "", "There is nothing to list.\n")
    assert run("audit") == (0, "", "There is nothing to list.\n")


def test_the_schema_is_made_by_migrate_and_by_nothing_else(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOOPLINE_DATABASE_URL", empty_database_url)
    assert command.main(["tenants", "list"]) == 1
    assert "`python -m services migrate`" in capsys.readouterr().err
    for _ in range(2):
        assert command.main(["migrate"]) == 0
    assert command.main(["tenants", "list"]) == 0


def test_a_setting_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LOOPLINE_AUTH", "maybe")
    assert command.main(["tenants", "list"]) == 2
    assert 'LOOPLINE_AUTH must be one of auto, keys, none; got "maybe".' in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [(), ("tenants",), ("tenants", "create"), ("keys",), ("keys", "create"), ("audit",), ("migrate",)]
)
def test_every_help_text_has_an_example_that_is_understood(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        command.main([*words, "--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    example = shown.partition("example: python -m services ")[2].split()
    assert example[: len(words)] == [*words]
    assert command.parser().parse_args(example).command


def test_it_is_started_as_a_module(sqlite_url: str) -> None:
    environment = {"LOOPLINE_DATABASE_URL": sqlite_url, "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "services", "keys", "create"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    engine = db.engine(sqlite_url)
    with db.read_scope(engine) as session:
        key_id = keys.verify(session, done.stdout.strip()).key_id
        assert session.get(ApiKey, key_id) is not None
    engine.dispose()
