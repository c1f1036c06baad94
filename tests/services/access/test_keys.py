"""API keys: shown once, kept as hashes, and good for nothing once they have ended."""

from __future__ import annotations

import hmac

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.access import keys, tenants
from services.access.keys import Scope
from services.errors import BadRequest, KeyNotFound, TenantNotFound, Unauthorized
from services.orm import ApiKey


@pytest.fixture
def made(engine: Engine) -> keys.Created:
    """A key of the tenant `acme` that may read and submit."""
    with db.session_scope(engine) as session:
        tenants.create(session, "acme")
        return keys.create(session, "acme", ["submit", "read"], name="ci")


def test_a_key_is_known_by_its_text_and_kept_without_it(session: Session, made: keys.Created) -> None:
    assert keys.verify(session, made.text) == keys.Identity("acme", frozenset({Scope.READ, Scope.SUBMIT}), made.key.id)
    secret = made.text.rpartition("_")[2]
    kept = [str(value) for row in session.execute(sa.select(*ApiKey.__table__.columns)) for value in row]
    assert not any(secret in value for value in kept)
    assert made.key.scopes == "read,submit"
    assert made.text == f"ll_{made.key.id.removeprefix('key_')}_{secret}"


def test_two_keys_share_nothing(session: Session, made: keys.Created) -> None:
    other = keys.create(session, "acme", ["read"])
    assert other.text != made.text
    assert other.key.secret_sha256 != made.key.secret_sha256


def test_what_is_no_valid_key_is_refused(session: Session, made: keys.Created) -> None:
    front, _, secret = made.text.rpartition("_")
    unknown = f"ll_{'0' * 26}_{secret}"
    wrong = f"{front}_{'0' * 64}"
    told = []
    for text in (unknown, wrong):
        with pytest.raises(Unauthorized) as refused:
            keys.verify(session, text)
        told.append(refused.value.message)
    assert told[0] == told[1]  # which ids there are is not told
    for garbage in ("", "ll_", made.text[:-1], f"{made.text}0", made.text.upper(), f" {made.text}", "ll_é_é", "\x00"):
        with pytest.raises(Unauthorized, match="begins with ll_"):
            keys.verify(session, garbage)


def test_an_unknown_id_costs_a_comparison_like_a_wrong_secret(
    session: Session, made: keys.Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def counting(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    front, _, secret = made.text.rpartition("_")
    for text in (f"ll_{'0' * 26}_{secret}", f"{front}_{'0' * 64}"):
        with pytest.raises(Unauthorized):
            keys.verify(session, text)
    assert compared == [(64, 64)] * 2


def test_a_revoked_key_is_refused_and_says_so_to_its_holder_only(session: Session, made: keys.Created) -> None:
    first = keys.revoke(session, made.key.id).revoked_at
    assert first is not None
    assert keys.revoke(session, made.key.id).revoked_at == first
    with pytest.raises(Unauthorized, match="was revoked"):
        keys.verify(session, made.text)
    with pytest.raises(Unauthorized, match="not known"):
        keys.verify(session, made.text[:-64] + "0" * 64)


def test_a_key_ends_when_its_time_is_over(session: Session, made: keys.Created) -> None:
    passing = keys.create(session, "acme", ["read"], expires_seconds=3600)
    assert keys.verify(session, passing.text).key_id == passing.key.id
    session.execute(sa.update(ApiKey).where(ApiKey.id == passing.key.id).values(expires_at=db.now() - 0.001))
    with pytest.raises(Unauthorized, match="has ended"):
        keys.verify(session, passing.text)


def test_the_last_use_is_written_once_a_minute(session: Session, made: keys.Created) -> None:
    def last_used() -> float | None:
        return session.scalar(sa.select(ApiKey.last_used_at).where(ApiKey.id == made.key.id))

    assert last_used() is None
    keys.note_use(session, made.key.id)
    first = last_used()
    keys.note_use(session, made.key.id)
    assert first is not None
    assert last_used() == first
    long_ago = first - keys.USED_SECONDS - 1
    session.execute(sa.update(ApiKey).values(last_used_at=long_ago))
    keys.note_use(session, made.key.id)
    assert (last_used() or 0) >= first


def test_keys_are_listed_and_revoked_within_their_tenant(session: Session, made: keys.Created) -> None:
    ours = keys.create(session, "default", ["admin"]).key.id
    assert [key.id for key in keys.page(session, tenant="acme")[0]] == [made.key.id]
    assert [key.id for key in keys.page(session)[0]] == [ours, made.key.id]
    assert [key.id for key in keys.page(session, limit=1)[0]] == [ours]
    assert [key.id for key in keys.page(session, after=ours)[0]] == [made.key.id]
    for asked in (made.key.id, "key_" + "0" * 26, "\x00"):
        with pytest.raises(KeyNotFound):
            keys.revoke(session, asked, tenant="default")
    assert keys.verify(session, made.text)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["read", "write"]}, "/scopes"),
        ({"name": ""}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"expires_seconds": 0.0}, "/expires_days"),
    ],
)
def test_a_key_that_cannot_be_is_refused(session: Session, changes: dict[str, object], pointer: str) -> None:
    with pytest.raises(BadRequest) as refused:
        keys.create(session, "default", **{"scopes": ["read"], **changes})  # type: ignore[arg-type]
    assert [problem.pointer for problem in refused.value.problems] == [pointer]


def test_a_tenant_that_is_not_there_has_no_keys(session: Session) -> None:
    with pytest.raises(TenantNotFound):
        keys.create(session, "nobody", ["read"])
