"""API keys from the client's side: where they are read from, what refusals say, and the commands about them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopline import BadRequest, Client, Conflict, NotAllowed, NotFound, ServiceUnreachable
from loopline.cli.app import app
from typer.testing import CliRunner, Result

from services import db
from services.access import keys, tenants

Run = Callable[..., Result]


def made(service: Any, *scopes: str, tenant: str = "default") -> str:
    with db.session_scope(service.engine) as session:
        return keys.create(session, tenant, scopes).text


@pytest.fixture
def run(keyed: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command against the service that asks for keys, with none."""
    monkeypatch.setenv("LOOPLINE_URL", keyed.url)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


def test_a_key_comes_from_where_it_is_said_to_be(keyed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good, file = made(keyed, "read"), tmp_path / "key"
    file.write_text(f"{good}\n")
    ways: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({}, {"api_key": good}),
        ({}, {"api_key_file": file}),
        ({"LOOPLINE_API_KEY": good}, {}),
        ({"LOOPLINE_API_KEY_FILE": str(file)}, {}),
        ({"LOOPLINE_API_KEY_FILE": str(file), "LOOPLINE_API_KEY": "ll_other"}, {}),
        ({"LOOPLINE_API_KEY_FILE": "/nowhere", "LOOPLINE_API_KEY": "ll_other"}, {"api_key": good}),
    ]
    for environment, given in ways:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with Client(keyed.url, **given) as client:
                assert client.whoami().scopes == ["read"]
                assert good[8:] not in repr(client)
    with pytest.raises(BadRequest, match="Cannot read the API key from /nowhere: No such file"):
        Client(keyed.url, api_key_file="/nowhere")


def test_what_is_not_allowed_says_so_and_is_not_tried_again(keyed: Any, tiny: dict[str, Any]) -> None:
    with Client(keyed.url) as client, pytest.raises(NotAllowed, match="asks for an API key") as refused:
        client.job("last")
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")
    with Client(keyed.url, made(keyed, "read")) as client, pytest.raises(NotAllowed, match="scope `submit`") as refused:
        client.submit(tiny)
    assert (refused.value.status, refused.value.code) == (403, "forbidden")
    assert len(keyed.requests) == 2


def test_a_quota_that_is_used_up_is_not_tried_again(keyed: Any, tiny: dict[str, Any]) -> None:
    with db.session_scope(keyed.engine) as session:
        tenants.create(session, "acme", max_queued=1)
    with Client(keyed.url, made(keyed, "read", "submit", tenant="acme")) as client:
        client.submit(tiny)
        with pytest.raises(Conflict, match=r"may have 1 \(max_queued\)"):
            client.submit(tiny)
        quota = client.whoami().quotas["queued"]
    assert (quota.used, quota.limit) == (1, 1)
    assert len(keyed.requests) == 3


def test_keys_are_made_listed_and_revoked(keyed: Any) -> None:
    with Client(keyed.url, made(keyed, "admin")) as client:
        key = client.keys.create(["read"], name="ci", expires_days=2)
        assert key.key is not None
        assert key.key.startswith("ll_")
        assert key.key not in repr(key)
        with Client(keyed.url, key.key) as other:
            assert other.whoami().key_id == key.id
        assert next(one.id for one in client.keys.list(page_size=1)) == key.id
        assert client.keys.revoke(key.id).revoked_at is not None
        with pytest.raises(NotFound):
            client.keys.revoke("key_1")
        with pytest.raises(BadRequest, match="/scopes/0"):
            client.keys.create(["write"])


def test_the_making_of_a_key_is_never_repeated(keyed: Any) -> None:
    admin = made(keyed, "admin")
    asked: list[str] = []

    def broken(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        asked.append(environ["PATH_INFO"])
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b""]

    keyed.wrap(broken)
    with Client(keyed.url, admin) as client, pytest.raises(ServiceUnreachable):
        client.keys.create(["read"])
    assert asked == ["/v1/keys"]


def test_the_commands_about_keys(run: Run, keyed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "admin").write_text(made(keyed, "admin"))
    monkeypatch.setenv("LOOPLINE_API_KEY_FILE", str(tmp_path / "admin"))
    done = run("keys", "create", "--scopes", "read, submit", "--name", "ci", "--expires-days", "90")
    assert re.fullmatch(r"ll_[0-9a-z]{26}_[0-9a-f]{64}\n", done.stdout)
    assert re.match(r"key_\w+ of the tenant default may read, submit and ends 2\d{3}-.*It is not shown", done.stderr)
    (tmp_path / "ci").write_text(done.stdout)
    key_id = f"key_{done.stdout.split('_')[1]}"

    shown = run("whoami", "--api-key-file", tmp_path / "ci").stdout
    assert [line.split(None, 1)[1] for line in shown.splitlines()[:3]] == ["default", key_id, "read, submit"]
    assert "jobs that wait  0\n" in shown
    assert json.loads(run("whoami", "--json").stdout)["scopes"] == ["admin"]

    header, first, _ = run("keys", "list").stdout.splitlines()
    assert header.split() == ["id", "name", "scopes", "created", "used", "ends"]
    assert re.split(" {2,}", first)[:5] == [key_id, "ci", "read, submit", "just now", "just now"]
    assert len(json.loads(run("keys", "list", "--json").stdout)) == 2

    done = run("keys", "revoke", key_id, "key_1")
    assert (done.exit_code, done.stdout) == (2, f"Revoked {key_id}.\n")
    assert "There is no API key key_1." in done.stderr
    assert "revoked" in run("keys", "list").stdout
    made_as_json = json.loads(run("keys", "create", "--json").stdout)
    assert made_as_json["key"].startswith(f"ll_{made_as_json['id'].removeprefix('key_')}_")


def test_what_is_not_allowed_ends_with_2_and_the_way_out(run: Run, keyed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("list")
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: This service asks for an API key: send it as `Authorization: Bearer ll_...`. "
        "The key is read from LOOPLINE_API_KEY, or from the file --api-key-file or LOOPLINE_API_KEY_FILE.\n"
    )
    monkeypatch.setenv("LOOPLINE_API_KEY", made(keyed, "submit"))
    done = run("list")
    assert done.exit_code == 2
    assert "needs an API key with the scope `read`; this one has submit." in done.stderr
    assert "loopline keys create --scopes" in done.stderr


def test_a_service_without_keys_says_so(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPLINE_URL", service.url)
    shown = CliRunner().invoke(app, ["whoami"]).stdout
    assert [line.split(None, 1)[1] for line in shown.splitlines()[:2]] == ["default", "none is needed here"]
    assert CliRunner().invoke(app, ["keys", "list"]).stdout.startswith("No keys yet. Make one: loopline keys create")
