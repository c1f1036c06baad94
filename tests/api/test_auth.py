"""Who may do what: every route with every kind of key, and no tenant sees what is another's."""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

import api
from api import auth
from api.app import create_app
from api.auth import RULES, Rule
from api.keyring import Keyring
from services import db
from services.access import keys, tenants
from services.access.keys import Identity, Scope
from services.blobs.uploads import Uploads
from services.datasets import versions
from services.jobs import attempts, batches, control, progress, submission
from services.jobs.leases import Lease
from services.models import registry
from services.orm import ApiKey, AuditEntry
from services.schedules import definitions
from services.searches import control as searches
from services.settings import Settings
from services.webhooks import subscriptions
from tests.api import answers
from tests.api.conftest import SPEC, put_into
from tests.conftest import received
from tests.ringing import FakeDoorbell

ACME, BETA = "acme", "beta"
UNKNOWN = {
    "job_id": "job_" + "0" * 26,
    "batch_id": "batch_" + "0" * 26,
    "dataset": "ds_" + "0" * 26,
    "key_id": "key_" + "0" * 26,
    "model": "model-none",
    "search_id": "search_" + "0" * 26,
    "schedule": "sch_" + "0" * 26,
    "webhook_id": "wh_" + "0" * 26,
    "delivery_id": "msg_" + "0" * 26,
}
"""Path parameters that name something of a tenant; what no tenant has."""
PUBLIC = {"step": "12", "file": "model.json", "name": "docs.js", "ref": "1", "alias": "production", "version": "none"}
NAMES = {"pages.asset": "style.css", "guide.document": "keys", "guide.picture": "curve.svg"}
"""Of files, where `PUBLIC` does not fit."""
SEARCH: dict[str, Any] = {"space": {"training.epochs": {"low": 1, "high": 900}}}
PREDICT = ("predictions.of_job", "predictions.of_version")
WAITS = {"jobs.cancel", "jobs.pause", "jobs.resume"}  # what needs a job that has not ended
KEYS_ASKED_FOR: dict[str, Any] = {"auth": "keys", "rate_limit": "none", "broker_url": "redis://127.0.0.1:1/0"}
"""The settings of a service that asks for keys, and whose broker is away."""
NOBODY = ("none", "basic", "garbage", "unknown id", "wrong secret", "expired", "revoked")


class World:
    """A service with two tenants, each with jobs, a data set and keys of every kind."""

    def __init__(self, app: Flask, spec: dict[str, Any], content: bytes) -> None:
        self.spec, self.content = spec, content
        self.serve(app)
        self.ids: dict[tuple[str, str], str] = {}
        with db.session_scope(self.service.engine) as session:
            for tenant in (ACME, BETA):
                tenants.create(session, tenant)
        self.keys = {(tenant, scope): self.key(tenant, scope) for tenant in (ACME, BETA) for scope in Scope}

    def serve(self, app: Flask) -> None:
        """Have this app serve what is stored."""
        self.service = app.extensions["loopline"]
        self.client = app.test_client()

    def copied(self, folder: Path) -> World:
        """The same things, which lie in this folder, without their app."""
        shutil.copytree(Path(str(self.service.engine.url.database)).parent, folder, dirs_exist_ok=True)
        return copy.copy(self)

    def key(self, tenant: str, *scopes: str) -> str:
        with db.session_scope(self.service.engine) as session:
            return keys.create(session, tenant, scopes).text

    def bad_key(self, kind: str) -> str:
        """The header of a request whose key is none, or none any more."""
        good = self.keys[ACME, Scope.READ]
        front, _, secret = good.rpartition("_")
        if kind in ("expired", "revoked"):
            good = self.key(ACME, *Scope)
            column = ApiKey.expires_at if kind == "expired" else ApiKey.revoked_at
            with db.session_scope(self.service.engine) as session:
                session.execute(
                    sa.update(ApiKey).where(ApiKey.id == f"key_{good.split('_')[1]}").values({column: db.now() - 1})
                )
            return f"Bearer {good}"
        texts = {
            "none": "",
            "basic": "Basic YTpi",
            "garbage": "Bearer \xff\xfell_garbage",
            "unknown id": f"Bearer ll_{'0' * 26}_{secret}",
            "wrong secret": f"Bearer {front}_{'0' * 64}",
        }
        return texts[kind]

    def ask(self, rule: Any, method: str, authorization: str, values: dict[str, str], **given: Any) -> TestResponse:
        if rule.endpoint in NAMES:
            values = {**values, "name": NAMES[rule.endpoint]}
        path = re.sub(r"<(?:[^<:]+(?:\(.*\))?:)?([^>]+)>", lambda found: values[found[1]], rule.rule)
        headers = {"X-Request-Id": "req", **({"Authorization": authorization} if authorization else {})}
        return self.client.open(path, method=method, headers=headers, buffered=True, **given)

    def body(self, endpoint: str, values: dict[str, str]) -> dict[str, Any]:
        """What goes with a request about these things, so that it is a good one."""
        if endpoint == "datasets.upload":
            return {"data": self.content, "content_type": "application/zip", "query_string": {"name": "toy"}}
        if endpoint == "uploads.begin":
            return {"query_string": {"bytes": 4}}
        if endpoint == "uploads.add":
            return {"data": b"0123", "content_type": "application/octet-stream", "query_string": {"offset": 0}}
        documents = {
            "jobs.submit": self.spec,
            "jobs.dry_run": self.spec,
            "batches.submit": {**self.spec, "matrix": {"training.epochs": [1, 2]}},
            "batches.dry_run": self.spec,
            "searches.dry_run": {**self.spec, "search": SEARCH},
            "searches.submit": {**self.spec, "search": SEARCH},
            "searches.add": {"more": 1},
            "schedules.create": {"name": "fresh", "cron": "@daily", "submit": self.spec},
            "schedules.put": {"cron": "@hourly", "submit": self.spec},
            "keys.create": {"scopes": ["read"]},
            "sessions.create": {"key": self.keys[ACME, Scope.READ]},
            "webhooks.create": {"url": "https://1.1.1.1/"},
            "registry.register": {"job": values["job_id"]},
            "registry.promote": {"version": 1},
            **{key: {"x": [[[1.0]]]} for key in PREDICT},
        }
        if endpoint == "curves.index":
            return {"query_string": {"jobs": values["job_id"]}}
        return {"json": documents[endpoint]} if endpoint in documents else {}

    def fresh(self, tenant: str, *, waits: bool) -> dict[str, str]:
        """Path parameters that name things of the tenant which nobody has touched: a job that waits, or has run to its
        end, a data set that no job uses, a key, a webhook that leads nowhere and a message of it, a model of two
        versions of which the second is in production."""
        with db.session_scope(self.service.engine) as session:
            job_id = submission.submit(session, submission.read(self.spec), tenant=tenant).job_id
            job = control.get(session, job_id)
            if not waits:
                self._train(session, job.id, "default")
            summary = self._dataset(session, tenant)
            key = keys.create(session, tenant, ["read"]).key
            batch = batches.submit(session, {"jobs": [self.spec | {"queue": "aside"}]}, tenant=tenant).batch
            model = f"model-{tenant}"
            for version in ("1", "2"):
                trained = submission.submit(session, submission.read(self.spec | {"queue": "models"}), tenant=tenant)
                self._train(session, trained.job_id, "models")
                registry.register(session, model, trained.job_id, tenant=tenant)
                registry.promote(session, model, version, tenant=tenant)
            search = searches.submit(session, {**self.spec, "search": SEARCH}, tenant=tenant).search
            wanted = definitions.Definition("@daily", self.spec)
            schedule = definitions.create(session, f"nightly-{len(self.ids)}", wanted, tenant=tenant)
            hook = subscriptions.create(session, "http://127.0.0.1:1/", events=["job.queued"], tenant=tenant)
            told = subscriptions.begin_test(session, hook.id, tenant=tenant)
        made = {"job_id": job.id, "batch_id": batch.id, "webhook_id": hook.id, "delivery_id": told.id}
        made |= {"schedule": schedule.id, "search_id": search.id}
        made["upload_id"] = Uploads(self.service.storage).begin(tenant, 4, most_bytes=4).id
        return {**PUBLIC, **made, "dataset": summary, "key_id": key.id, "model": model}

    def _train(self, session: Any, job_id: str, queue: str) -> None:
        job = attempts.claim(session, queue, worker="test:1", lease_seconds=60)
        assert job is not None
        assert job.id == job_id
        lease = Lease.of(job)
        progress.started(session, lease, epochs=3, steps_per_epoch=4, info={})
        progress.record_steps(session, lease, 1, [1.0], [0.5])
        progress.record(session, lease, {"epoch": 1, "train_loss": 1.0})
        put = put_into(self.service.storage)
        kept = [put(job.id, f"checkpoint-000000012.{kind}", b"{}") for kind in ("json", "safetensors")]
        progress.checkpoint(session, lease, epoch=1, step=12, best=True, files=kept)
        names = ("model.safetensors", "model.json", "history.json", "README.md")
        model = [put(job.id, name, b"{}") for name in names]
        result = {"best_epoch": 1, "epochs": 1, "stopped_early": False, "metrics": {}}
        attempts.succeed(session, lease, result, model)

    def _dataset(self, session: Any, tenant: str) -> str:
        from io import BytesIO

        name = f"set-{len(self.ids)}"
        self.ids[tenant, name] = name
        return versions.add(
            session, received(self.service.storage, BytesIO(self.content)), name=name, tenant=tenant
        ).dataset.id


@pytest.fixture
def world(
    make_app: Callable[..., Flask], sqlite_url: str, spec: dict[str, Any], npz_bytes: Callable[..., bytes]
) -> World:
    return World(make_app(sqlite_url, **KEYS_ASKED_FOR), spec, npz_bytes())


Things = dict[str, dict[str, str]]
"""What is in the paths of a tenant's things, by the tenant."""


@pytest.fixture(scope="module")
def filled(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, npz_bytes: Callable[..., bytes]
) -> Iterator[Callable[[bool], tuple[World, Things]]]:
    """Makes a world with fresh things of both tenants, once: with jobs that wait, or with jobs that have ended."""
    made: list[Flask] = []

    @functools.cache
    def fill(waits: bool) -> tuple[World, Things]:
        folder = tmp_path_factory.mktemp("filled")
        shutil.copyfile(sqlite_template, folder / "loopline.db")
        address = f"sqlite:///{folder}/loopline.db"
        settings = Settings(data_dir=folder / "var", database_url=address, **KEYS_ASKED_FOR)
        made.append(create_app(settings, bell=FakeDoorbell()))
        answers.hold(made[-1])
        world = World(made[-1], SPEC, npz_bytes())
        return world, {tenant: world.fresh(tenant, waits=waits) for tenant in (ACME, BETA)}

    yield fill
    for app in made:
        app.extensions["loopline"].engine.dispose()


@pytest.fixture
def world_for(
    filled: Callable[[bool], tuple[World, Things]], make_app: Callable[..., Flask], tmp_path: Path
) -> Callable[[Any, str], tuple[World, Things]]:
    """Gives a route a world with fresh things: a copy, unless the route only reads."""

    def give(rule: Any, method: str) -> tuple[World, Things]:
        world, own = filled(rule.endpoint in WAITS)
        if method != "GET":
            world = world.copied(tmp_path)
            world.serve(make_app(f"sqlite:///{tmp_path}/loopline.db", **KEYS_ASKED_FOR))
        return world, own

    return give


def every_route() -> list[Any]:
    """Every route and method of an app; making it connects to nothing."""
    app = create_app(
        Settings(data_dir=Path("/nowhere"), database_url="postgresql://x@127.0.0.1:1/x"), bell=FakeDoorbell()
    )
    app.extensions["loopline"].engine.dispose()
    found = [
        pytest.param(rule, method, id=f"{method} {rule.rule}")
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"})
    ]
    return sorted(found, key=lambda one: one.id or "")


@pytest.mark.parametrize(("rule", "method"), every_route())
def test_every_route_lets_in_who_may_and_nobody_else(
    world_for: Callable[[Any, str], tuple[World, Things]], rule: Any, method: str
) -> None:
    needed = RULES[rule.endpoint]
    world, own = world_for(rule, method)

    for kind in NOBODY:
        world.service.rates._own.clear()
        answer = world.ask(rule, method, world.bad_key(kind), own[ACME], **world.body(rule.endpoint, own[ACME]))
        if needed is Rule.OPEN:
            assert answer.status_code in (200, 302, 503), kind
            continue
        assert (answer.status_code, answer.get_json()["code"]) == (401, "unauthorized"), kind
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="loopline"')
        assert ("invalid_token" in answer.headers["WWW-Authenticate"]) == (kind not in ("none", "basic"))
        assert world.ask(rule, "OPTIONS", world.bad_key(kind), own[ACME]).status_code == 401

    for tenant, other in ((ACME, BETA), (BETA, ACME)):
        body = world.body(rule.endpoint, own[tenant])
        for scope in Scope:
            key = f"Bearer {world.keys[tenant, scope]}"
            if needed not in (scope, Rule.OPEN, Rule.KEY) and (needed, scope) != (Scope.PREDICT, Scope.SUBMIT):
                answer = world.ask(rule, method, key, own[tenant], **body)
                assert (answer.status_code, answer.get_json()["code"]) == (403, "forbidden"), scope
                assert f"`{needed}`" in answer.get_json()["detail"]
                assert f'scope="{needed}"' in answer.headers["WWW-Authenticate"]
                continue
            if set(rule.arguments) & set(UNKNOWN) and needed is not Rule.OPEN:  # a page is the same for everybody
                assert not refused_alike(world, rule, method, key, own[other])
            answer = world.ask(rule, method, key, own[tenant], **body)
            if rule.endpoint in PREDICT:  # the files here are no model
                assert (answer.status_code, answer.get_json()["code"]) == (409, "model_unusable")
                continue
            if rule.endpoint == "answers.download":  # the job here trains
                assert (answer.status_code, answer.get_json()["code"]) == (404, "answers_not_ready")
                continue
            if rule.endpoint == "uploads.check":  # nothing of the upload here was sent
                assert (answer.status_code, answer.get_json()["code"]) == (409, "upload_conflict")
                continue
            assert answer.status_code in (200, 201, 202, 204, 302, 503), (scope, answer.data)
            assert (answer.status_code == 503) <= (needed is Rule.OPEN)


def refused_alike(world: World, rule: Any, method: str, key: str, theirs: dict[str, str]) -> dict[str, object]:
    """How the answer for what another tenant has differs from that for what nobody has; both must be 404."""
    told = []
    for values in (theirs, {**theirs, **UNKNOWN}):
        answer = world.ask(rule, method, key, values, **world.body(rule.endpoint, values))
        assert answer.status_code == 404
        text = answer.data.decode()
        for name in UNKNOWN:
            text = text.replace(values[name], "ID")
        told.append({"status": answer.status, "headers": sorted(answer.headers), "body": text})
    return {part: (told[0][part], told[1][part]) for part in told[0] if told[0][part] != told[1][part]}


def test_a_route_without_a_rule_keeps_the_app_from_being_made(
    make_app: Callable[..., Flask], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(RULES, "jobs.index")
    with pytest.raises(RuntimeError, match=r"no rule in api/auth.py, RULES: jobs\.index\."):
        make_app(sqlite_url)


def test_no_rule_is_without_a_route(app: Flask) -> None:
    assert set(RULES) == {rule.endpoint for rule in app.url_map.iter_rules()}


def test_every_call_of_a_view_says_whose(app: Flask) -> None:
    """A function that takes a tenant is never called without one by the API: without, it means all of them."""
    unsaid = []
    for path in sorted(Path(api.__file__).parent.rglob("*.py")):
        dotted = ".".join(path.relative_to(Path(api.__file__).parent.parent).with_suffix("").parts)
        module = importlib.import_module(dotted) if path.stem[0] != "_" else None
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if not (isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)):
                continue
            noun = getattr(module, call.func.value.id, None)
            if not (isinstance(noun, ModuleType) and noun.__name__.startswith("services.")):
                continue
            verb = getattr(noun, call.func.attr)
            takes = [*inspect.signature(verb).parameters] if inspect.isfunction(verb) else []
            by_name = {given.arg for given in call.keywords}
            if "tenant" in takes and "tenant" not in {*by_name, *takes[: len(call.args)]}:
                unsaid.append(f"{path.name}:{call.lineno}")
    assert unsaid == []


def test_lists_hold_what_is_the_tenants_own(world: World) -> None:
    for tenant in (ACME, BETA):
        world.fresh(tenant, waits=True)
    for path, holds in (
        ("/v1/jobs", "id"),
        ("/v1/batches", "id"),
        ("/v1/schedules", "id"),
        ("/v1/datasets", "id"),
        ("/v1/keys", "id"),
        ("/v1/webhooks", "id"),
        ("/v1/audit", "resource_id"),
    ):
        seen = {}
        for tenant in (ACME, BETA):
            scope = Scope.ADMIN if path in ("/v1/keys", "/v1/webhooks", "/v1/audit") else Scope.READ
            if path == "/v1/audit":
                key = {"Authorization": f"Bearer {world.keys[tenant, Scope.SUBMIT]}"}
                assert world.client.post("/v1/jobs", json=world.spec, headers=key).status_code == 202
            headers = {"Authorization": f"Bearer {world.keys[tenant, scope]}"}
            seen[tenant] = {row[holds] for row in world.client.get(path, headers=headers).get_json()["data"]}
        assert seen[ACME]
        assert seen[BETA]
        assert not seen[ACME] & seen[BETA], path


def test_a_spec_that_names_anothers_data_set_is_told_what_any_unknown_one_is(world: World) -> None:
    theirs = world.fresh(BETA, waits=True)["dataset"]
    told = []
    for name in (theirs, UNKNOWN["dataset"]):
        headers = {"Authorization": f"Bearer {world.keys[ACME, Scope.SUBMIT]}", "X-Request-Id": "req"}
        answer = world.client.post("/v1/jobs", json={**world.spec, "data": {"dataset": name}}, headers=headers)
        assert answer.status_code == 422
        told.append(answer.data.decode().replace(name, "ID"))
    assert told[0] == told[1]


def test_an_idempotency_key_of_another_tenant_is_unused(world: World) -> None:
    made = []
    for tenant in (ACME, BETA, ACME):
        headers = {"Authorization": f"Bearer {world.keys[tenant, Scope.SUBMIT]}", "Idempotency-Key": "once"}
        made.append(world.client.post("/v1/jobs", json=world.spec, headers=headers))
    assert [answer.headers.get("Idempotency-Replayed") for answer in made] == [None, None, "true"]
    ids = [answer.get_json()["id"] for answer in made]
    assert ids[0] == ids[2] != ids[1]


def test_the_job_of_a_worker_is_told_to_its_tenant_only(world: World) -> None:
    from services.jobs import workers

    job_id = world.fresh(ACME, waits=True)["job_id"]
    with db.session_scope(world.service.engine) as session:
        workers.beat(session, "a:1", queues=["default"], state="busy", job_id=job_id, doorbell_seconds_ago=1.0)
    for tenant, told in ((ACME, job_id), (BETA, None)):
        headers = {"Authorization": f"Bearer {world.keys[tenant, Scope.READ]}"}
        [worker] = world.client.get("/v1/workers", headers=headers).get_json()["data"]
        assert (worker["state"], worker["job_id"]) == ("busy", told)


def test_strangers_hear_that_something_is_wrong_and_not_what(world: World) -> None:
    stranger = world.client.get("/v1/health/ready").get_json()
    headers = {"Authorization": f"Bearer {world.keys[ACME, Scope.READ]}"}
    known = world.client.get("/v1/health/ready", headers=headers).get_json()
    assert stranger["status"] == known["status"] == "degraded"
    assert stranger["checks"]["broker"] == "not well; ask with an API key to hear why"
    assert known["checks"]["broker"] == "cannot be reached (ConnectionError)"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def statements(world: World) -> Iterator[list[str]]:
    """What is asked of the database."""
    seen: list[str] = []

    def hear(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    sa.event.listen(world.service.engine, "before_cursor_execute", hear)
    yield seen
    sa.event.remove(world.service.engine, "before_cursor_execute", hear)


def test_a_key_is_looked_up_once_in_a_while_and_a_revoked_one_stops_within_that_time(
    world: World, clock: Clock, statements: list[str]
) -> None:
    keyring = Keyring(world.service.engine, seconds=5.0, clock=clock)
    text = world.keys[ACME, Scope.READ]
    who = keyring.identity(text)
    assert who == Identity(ACME, frozenset({Scope.READ}), f"key_{text.split('_')[1]}")
    del statements[:]
    assert keyring.identity(text) == who
    assert statements == []  # a poll asks nothing of the database for its key
    with db.session_scope(world.service.engine) as session:
        keys.revoke(session, who.key_id or "")
    clock.now += 4.9
    assert keyring.identity(text) == who
    clock.now += 0.2
    with pytest.raises(auth.Unauthorized, match="was revoked"):
        keyring.identity(text)


def test_a_key_that_is_revoked_over_http_stops_at_once_in_that_process(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.keys[ACME, Scope.ADMIN]}"}
    made = world.client.post("/v1/keys", json={"scopes": ["read"]}, headers=headers).get_json()
    own = {"Authorization": f"Bearer {made['key']}"}
    assert world.client.get("/v1/jobs", headers=own).status_code == 200
    assert world.client.delete(f"/v1/keys/{made['id']}", headers=headers).get_json()["revoked_at"]
    assert world.client.get("/v1/jobs", headers=own).status_code == 401


def test_the_use_of_a_key_is_noted_unless_that_would_take_a_wait(world: World, clock: Clock) -> None:
    engine, text = world.service.engine, world.keys[ACME, Scope.READ]
    keyring = Keyring(engine, seconds=5.0, clock=clock)

    def last_used() -> float | None:
        with db.read_scope(engine) as session:
            return session.scalar(sa.select(ApiKey.last_used_at).where(ApiKey.id == f"key_{text.split('_')[1]}"))

    with db.session_scope(engine) as writer:
        writer.execute(sa.update(ApiKey).where(ApiKey.id == "nobody").values(name="x"))  # SQLite is locked now
        keyring.identity(text)  # 8 s, were it waited for
        clock.now += 1.0
    assert last_used() is None
    clock.now += 10.0
    keyring.identity(text)
    assert last_used() is not None


def test_what_is_done_is_written_down_with_who_did_it(world: World) -> None:
    key = world.keys[ACME, Scope.SUBMIT]
    headers = {"Authorization": f"Bearer {key}", "X-Request-Id": "mine-1", "Idempotency-Key": "once"}
    job_id = world.client.post("/v1/jobs", json=world.spec, headers=headers).get_json()["id"]
    world.client.post("/v1/jobs", json=world.spec, headers=headers)  # came to the same job: nothing was done
    for verb in ("pause", "resume", "cancel"):
        world.client.post(f"/v1/jobs/{job_id}/{verb}", headers=headers)
    world.client.delete(f"/v1/jobs/{job_id}", headers=headers)
    world.client.post(f"/v1/jobs/{job_id}/cancel", headers=headers)  # 404: nothing was done
    dataset = world.client.post(
        "/v1/datasets?name=toy", data=world.content, content_type="application/zip", headers=headers
    ).get_json()["id"]
    world.client.delete(f"/v1/datasets/{dataset}", headers=headers)
    admin = {"Authorization": f"Bearer {world.keys[ACME, Scope.ADMIN]}"}
    told = world.client.get("/v1/audit", headers=admin).get_json()["data"]
    done = [(entry["action"], entry["resource_id"]) for entry in reversed(told)]
    assert done == [
        *((f"job.{verb}", job_id) for verb in ("submit", "pause", "resume", "cancel", "delete")),
        *(("dataset.upload", dataset), ("dataset.delete", dataset)),
    ]
    assert {(one["key_id"], one["request_id"], one["remote_address"]) for one in told} == {
        (f"key_{key.split('_')[1]}", "mine-1", "127.0.0.1")
    }
    page = world.client.get("/v1/audit?limit=2", headers=admin).get_json()
    assert page["has_more"]
    next_page = world.client.get(f"/v1/audit?limit=2&after={page['data'][-1]['id']}", headers=admin).get_json()
    assert [*page["data"], *next_page["data"]] == told[:4]


def test_an_action_and_its_entry_are_made_together_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no")

    job_id = world.fresh(ACME, waits=True)["job_id"]
    monkeypatch.setattr(auth.audit, "record", refuse)
    headers = {"Authorization": f"Bearer {world.keys[ACME, Scope.SUBMIT]}"}
    assert world.client.post(f"/v1/jobs/{job_id}/cancel", headers=headers).status_code == 500
    with db.read_scope(world.service.engine) as session:
        assert control.get(session, job_id).status == "queued"
        assert session.scalar(sa.select(sa.func.count()).select_from(AuditEntry)) == 0


# Where no key is needed


def test_on_loopback_everybody_is_the_default_tenant_and_may_do_everything(app: Flask) -> None:
    client = app.test_client()
    answer = client.get("/v1/whoami").get_json()
    assert (answer["tenant"], answer["key_id"], answer["scopes"]) == ("default", None, list(Scope))
    assert client.get("/v1/whoami", headers={"Authorization": "Bearer what is this"}).status_code == 200


@pytest.mark.parametrize(
    ("remote", "host", "status"),
    [
        ("127.0.0.1", "localhost:8080", 200),
        ("127.0.0.1", "127.0.0.1", 200),
        ("::1", "[::1]:8080", 200),
        ("192.0.2.7", "localhost", 401),  # it listens elsewhere too: a WSGI server was told so
        ("127.0.0.1", "loopline.example", 401),  # through a proxy, or a page that has its own name point here
        ("127.0.0.1", "localhost.example", 401),
        ("", "localhost", 401),
        ("127.0.0.1", "[::1", 401),
    ],
)
def test_who_comes_from_elsewhere_needs_a_key_all_the_same(app: Flask, remote: str, host: str, status: int) -> None:
    answer = app.test_client().get("/v1/jobs", headers={"Host": host}, environ_overrides={"REMOTE_ADDR": remote})
    assert answer.status_code == status
    assert status == 200 or "only on its own machine, at localhost" in answer.get_json()["detail"]


def test_auth_none_lets_everybody_in(make_app: Callable[..., Flask], sqlite_url: str) -> None:
    client = make_app(sqlite_url, auth="none", host="0.0.0.0").test_client()  # noqa: S104
    answer = client.get("/v1/jobs", headers={"Host": "a.example"}, environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert answer.status_code == 200


def test_beyond_loopback_a_key_is_needed(make_app: Callable[..., Flask], sqlite_url: str) -> None:
    assert make_app(sqlite_url, host="0.0.0.0").test_client().get("/v1/jobs").status_code == 401  # noqa: S104


def test_the_document_says_what_every_operation_asks_for(app: Flask) -> None:
    document = app.test_client().get("/v1/openapi.json").get_json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    operations = [one for path in document["paths"].values() for one in path.values()]
    for operation in operations:
        needs_key = operation["security"] == [{"key": []}, {"session": []}]
        assert needs_key == (not operation["operationId"].startswith("is") and operation["operationId"] != "signIn")
        assert {"401", "429"} <= set(operation["responses"]) or not needs_key
        assert needs_key == bool(
            re.search(
                r"Asks for (the scope `(read|predict|submit|admin)`( or `submit`)?|any valid key)\.",
                operation["description"],
            )
        )
