"""Tenants: none sees what is another's, and none has more than it may, however many ask at once."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db, idempotency
from services.access import tenants
from services.blobs.storage import Storage
from services.datasets import versions
from services.errors import (
    BadRequest,
    DatasetNotFound,
    JobNotFound,
    QuotaExceeded,
    SpecInvalid,
    TenantExists,
    TenantNotFound,
)
from services.jobs import attempts, control, lanes, queries, submission, workers
from services.jobs.leases import Lease
from services.orm import Job
from services.training.spec import Spec
from tests.conftest import received
from tests.services.jobs.test_claims import at_once, take

Submit = Callable[..., Job]


@pytest.fixture
def submit(engine: Engine, make_spec: Callable[..., Spec]) -> Submit:
    """Submits a job as a tenant."""
    document = make_spec().document()

    def one(tenant: str, **given: Any) -> Job:
        with db.session_scope(engine) as session:
            made = submission.submit(session, submission.read(document), tenant=tenant, **given)
            return control.get(session, made.job_id)

    return one


@pytest.fixture
def make_tenant(engine: Engine) -> Callable[..., None]:
    """A factory of tenants."""

    def make(name: str, **limits: int | None) -> None:
        with db.session_scope(engine) as session:
            tenants.create(session, name, **limits)

    return make


def upload(engine: Engine, storage: Storage, content: bytes, tenant: str, name: str = "toy") -> versions.Added:
    with db.session_scope(engine) as session:
        return versions.add(session, received(storage, BytesIO(content)), name=name, tenant=tenant)


def test_the_tenant_of_those_without_a_key_is_there_and_has_no_limits(session: Session) -> None:
    found = tenants.get(session, tenants.DEFAULT)
    assert (found.max_queued, found.max_running, found.max_bytes) == (None, None, None)


def test_a_tenant_is_made_once_and_its_limits_change(session: Session) -> None:
    tenants.create(session, "acme", max_queued=10)
    with pytest.raises(TenantExists, match="acme"):
        tenants.create(session, "acme")
    tenants.change(session, "acme", max_running=0, max_queued=None)
    found = tenants.get(session, "acme")
    assert (found.max_queued, found.max_running, found.max_bytes) == (None, 0, None)
    assert [one.name for one in tenants.every(session)] == ["acme", "default"]
    with pytest.raises(TenantNotFound, match="other"):
        tenants.change(session, "other", max_queued=1)
    with pytest.raises(BadRequest) as negative:
        tenants.change(session, "acme", max_queued=-1)
    assert [problem.pointer for problem in negative.value.problems] == ["/max_queued"]


@pytest.mark.parametrize("name", ["", "Acme", "a b", "../x", "-a", "a" * 64, "é"])
def test_a_name_that_is_none_is_refused(session: Session, name: str) -> None:
    with pytest.raises(BadRequest, match="is no name"):
        tenants.create(session, name)


def test_a_job_of_a_tenant_that_is_not_there_is_refused(submit: Submit) -> None:
    with pytest.raises(TenantNotFound):
        submit("nobody")


def test_a_job_is_nothing_to_another_tenant(engine: Engine, submit: Submit, make_tenant: Callable[..., None]) -> None:
    make_tenant("acme")
    job_id = submit("acme").id
    unknown = "job_" + "0" * 26
    for call in (control.get, control.revision, control.cancel, control.pause, control.resume, control.delete):
        told = []
        for asked in (job_id, unknown):
            with pytest.raises(JobNotFound) as refused, db.session_scope(engine) as session:
                call(session, asked, tenant="default")  # type: ignore[operator]
            told.append(refused.value.message.replace(asked, "ID"))
        assert told[0] == told[1]
    with db.read_scope(engine) as session:
        connection = session.connection()
        assert queries.page(connection, tenant="default", limit=20).rows == []
        assert [job.id for job in queries.page(connection, tenant="acme", limit=20).rows] == [job_id]
        assert control.get(session, job_id, tenant="acme").status == "queued"


def test_an_idempotency_key_is_each_tenants_own(
    engine: Engine, submit: Submit, make_tenant: Callable[..., None]
) -> None:
    make_tenant("acme")
    made = {
        tenant: submit(tenant, key=idempotency.Key(f"{tenant} POST /v1/jobs", "once", "f")).id
        for tenant in ("acme", "default")
    }
    assert made["acme"] != made["default"]
    assert submit("acme", key=idempotency.Key("acme POST /v1/jobs", "once", "f")).id == made["acme"]


def test_what_another_tenant_uploaded_is_new_and_stays_its_own(
    engine: Engine, storage: Storage, npz_bytes: Callable[..., bytes], make_tenant: Callable[..., None]
) -> None:
    make_tenant("acme")
    content = npz_bytes()
    theirs = upload(engine, storage, content, "acme")
    ours = upload(engine, storage, content, "default")
    assert (theirs.created, ours.created) == (True, True)
    assert (theirs.dataset.version, ours.dataset.version) == (1, 1)
    assert theirs.dataset.id != ours.dataset.id
    with db.session_scope(engine) as session:
        for asked in (theirs.dataset.id, "toy@2"):
            with pytest.raises(DatasetNotFound):
                versions.get(session, asked, tenant="default")
            with pytest.raises(DatasetNotFound):
                versions.delete(session, asked, tenant="default")
        assert versions.get(session, "toy", tenant="default").id == ours.dataset.id
        assert [row.id for row in versions.page(session, tenant="default")[0]] == [ours.dataset.id]
        versions.delete(session, "toy", tenant="default")
        assert versions.get(session, "toy", tenant="acme").id == theirs.dataset.id
        assert tenants.use(session, "acme").bytes == len(content)
        assert tenants.use(session, "default").bytes == 0
        assert versions.sweep(session, storage) == 0  # the file is still somebody's


def test_a_spec_can_name_no_data_set_of_another_tenant(
    engine: Engine,
    storage: Storage,
    npz_bytes: Callable[..., bytes],
    make_spec: Callable[..., Spec],
    make_tenant: Callable[..., None],
) -> None:
    make_tenant("acme")
    theirs = upload(engine, storage, npz_bytes(), "acme", "secret-project").dataset.id
    for name in (theirs, "secret-project", "secret-projec"):
        document = {**make_spec().document(), "data": {"dataset": name}}
        with pytest.raises(SpecInvalid) as refused, db.session_scope(engine) as session:
            submission.submit(session, submission.read(document), tenant="default")
        assert "known: none yet" in str(refused.value)
        assert "did you mean" not in str(refused.value)


def test_a_quota_of_waiting_jobs_counts_those_that_are_paused(
    engine: Engine, submit: Submit, make_tenant: Callable[..., None]
) -> None:
    make_tenant("acme", max_queued=2)
    first = submit("acme").id
    with db.session_scope(engine) as session:
        control.pause(session, first)
    submit("acme")
    with pytest.raises(QuotaExceeded, match=r"has 2 jobs waiting, queued or paused, and may have 2 \(max_queued\)"):
        submit("acme")
    submit("default")
    with db.session_scope(engine) as session:
        control.resume(session, first)  # it counted already
        control.cancel(session, first)
    submit("acme")


def test_of_fifty_jobs_at_once_a_quota_lets_exactly_ten_in(
    engine: Engine, submit: Submit, make_tenant: Callable[..., None]
) -> None:
    make_tenant("acme", max_queued=10)

    def one() -> bool:
        try:
            submit("acme")
        except QuotaExceeded:
            return False
        return True

    assert sum(at_once([one] * 50)) == 10
    with db.read_scope(engine) as session:
        assert tenants.use(session, "acme") == tenants.Use(queued=10, running=0, bytes=0)


def test_of_many_uploads_at_once_a_quota_lets_as_many_in_as_fit(
    engine: Engine, storage: Storage, npz_bytes: Callable[..., bytes], make_tenant: Callable[..., None]
) -> None:
    contents = [npz_bytes(seed) for seed in range(8)]
    size = len(contents[0])
    make_tenant("acme", max_bytes=3 * size + 1)

    def one(content: bytes) -> bool:
        try:
            upload(engine, storage, content, "acme")
        except QuotaExceeded:
            return False
        return True

    assert sum(at_once([lambda content=content: one(content) for content in contents])) == 3  # type: ignore[misc]
    with pytest.raises(QuotaExceeded, match=rf"may have {3 * size + 1:,} \(max_bytes\)"):
        upload(engine, storage, npz_bytes(9), "acme")
    with db.session_scope(engine) as session:
        kept = versions.page(session, tenant="acme")[0]
    again = next(content for content in contents if sha(content) == kept[0].sha256)
    assert not upload(engine, storage, again, "acme").created  # what is there needs no more room
    with db.session_scope(engine) as session:
        versions.delete(session, kept[0].id)
    assert upload(engine, storage, npz_bytes(9), "acme").created


def sha(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_a_tenant_at_its_limit_of_running_jobs_is_passed_over(
    engine: Engine, submit: Submit, make_tenant: Callable[..., None]
) -> None:
    make_tenant("acme", max_running=1)
    first, second = submit("acme").id, submit("acme").id
    other = submit("default").id
    assert [take(engine), take(engine), take(engine)] == [first, other, None]
    with db.read_scope(engine) as session:
        assert lanes.waiting(session) == []  # no bell for what may not run
        assert workers.stuck(session, 0.0) == []
        assert not workers.runnable_for(session, ["default"], 0.0)
    with db.session_scope(engine) as session:
        attempts.succeed(session, Lease(first, 1), {}, [])
        assert lanes.waiting(session) == ["default"]
    assert take(engine) == second


def test_of_many_claims_at_once_a_tenant_gets_no_more_than_its_limit(
    engine: Engine, submit: Submit, make_tenant: Callable[..., None]
) -> None:
    make_tenant("acme", max_running=3)
    make_tenant("beta", max_running=2)
    for _ in range(8):
        submit("acme")
        submit("beta")
    others = {submit("default").id for _ in range(4)}
    taken = [job_id for job_id in at_once([lambda: take(engine)] * 16) if job_id]
    taken += [job_id for job_id in (take(engine) for _ in range(9)) if job_id]  # what was passed over while it was held
    with db.read_scope(engine) as session:
        running = sa.select(Job.tenant, sa.func.count()).where(Job.status == "running").group_by(Job.tenant)
        assert dict(session.execute(running).all()) == {"acme": 3, "beta": 2, "default": 4}
    assert others <= set(taken)
