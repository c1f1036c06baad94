"""The registry: versions of models, aliases that move at once, and a history that is in order whoever moves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services import db
from services.errors import (
    AliasMoved,
    BadRequest,
    JobNotFound,
    JobNotSucceeded,
    JobRegistered,
    ModelInUse,
    ModelNotFinite,
    ModelNotFound,
    NothingBefore,
)
from services.jobs import attempts, control
from services.models import registry
from services.orm import Job, ModelMove
from tests.services.conftest import claimed

Train = Callable[[], str]


@pytest.fixture
def train(engine: Engine, make_job: Callable[..., Job]) -> Train:
    """Makes a job that has succeeded; its id."""

    def run() -> str:
        make_job()
        lease = claimed(engine)
        with db.session_scope(engine) as session:
            return attempts.succeed(session, lease, {"metrics": {"test_loss": 0.5}}, []).id

    return run


@pytest.fixture
def three(engine: Engine, train: Train) -> Sequence[str]:
    """The jobs of three versions of the model vowels."""
    made = [train() for _ in range(3)]
    with db.session_scope(engine) as session:
        for job_id in made:
            registry.register(session, "vowels", job_id)
    return made


def moves(session: Session) -> list[tuple[str, int | None, int | None]]:
    """What was done to the aliases of vowels, oldest first."""
    return [(move.action, move.from_version, move.to_version) for move in registry.history(session, "vowels")[0][::-1]]


def test_a_version_is_found_by_number_alias_and_as_the_latest(session: Session, three: Sequence[str]) -> None:
    registry.promote(session, "vowels", "2")
    for reference, version in (("vowels", 3), ("vowels@latest", 3), ("vowels@1", 1), ("vowels@production", 2)):
        found = registry.get(session, reference)
        assert (found.version, found.job_id) == (version, three[version - 1])
    assert [row.version for row in registry.versions(session, "vowels", limit=2)[0]] == [3, 2]
    assert [row.version for row in registry.versions(session, "vowels", after=2)[0]] == [1]


@pytest.mark.parametrize(
    "reference", ["vowels@4", "vowels@0", "vowels@candidate", "vowels@", "other", "", "V@1", "a\0"]
)
def test_what_is_not_there_is_named(session: Session, three: Sequence[str], reference: str) -> None:
    with pytest.raises(ModelNotFound):
        registry.get(session, reference)


def test_the_message_says_what_there_is(session: Session, three: Sequence[str]) -> None:
    registry.promote(session, "vowels", "2")
    with pytest.raises(ModelNotFound, match="has no version 9; its newest is 3"):
        registry.get(session, "vowels@9")
    with pytest.raises(ModelNotFound, match="has no alias 'producton'; it has production"):
        registry.get(session, "vowels@producton")


def test_a_job_is_one_version_however_often_it_is_registered(session: Session, train: Train) -> None:
    job_id = train()
    first, again = (registry.register(session, "vowels", job_id, note="a try") for _ in range(2))
    assert (first.created, again.created, again.version.version) == (True, False, 1)
    assert registry.register(session, "other", job_id).version.version == 1


def test_only_the_result_of_a_job_that_succeeded_is_registered(session: Session, queued_job: Job) -> None:
    with pytest.raises(JobNotSucceeded, match=f"{queued_job.id} is queued"):
        registry.register(session, "vowels", queued_job.id)
    with pytest.raises(JobNotFound):
        registry.register(session, "vowels", "job_\0none")
    for name in ("", "Vowels", "a@b", "-a", "a" * 101, "a/b"):
        with pytest.raises(BadRequest):
            registry.register(session, name, queued_job.id)


def test_a_model_whose_loss_is_not_finite_is_neither_registered_nor_promoted(
    engine: Engine, session: Session, train: Train, three: Sequence[str]
) -> None:
    """As versions before this was looked at let them succeed."""
    lost = train()
    for job_id in (lost, three[1]):
        result = {"best_epoch": 1, "metrics": {"validation_loss": None, "validation_accuracy": 0.3}}
        session.execute(sa.update(Job).where(Job.id == job_id).values(result=result))
    with pytest.raises(ModelNotFinite, match=f"The validation loss of the job {lost} is no finite number"):
        registry.register(session, "vowels", lost)
    with pytest.raises(ModelNotFinite, match=three[1]):
        registry.promote(session, "vowels", "2")
    assert registry.promote(session, "vowels", "3").changed
    assert moves(session) == [("promote", None, 3)]


def test_rollbacks_go_back_one_by_one_and_never_forth(session: Session, three: Sequence[str]) -> None:
    for ref in ("1", "2", "3", "latest"):
        registry.promote(session, "vowels", ref)
    assert registry.rollback(session, "vowels", reason="worse").version == 2
    assert registry.rollback(session, "vowels").version == 1
    with pytest.raises(NothingBefore, match=r"vowels@production is version 1"):
        registry.rollback(session, "vowels")
    registry.promote(session, "vowels", "3")
    assert registry.rollback(session, "vowels").version == 1
    assert moves(session) == [
        ("promote", None, 1),
        ("promote", 1, 2),
        ("promote", 2, 3),
        ("rollback", 3, 2),
        ("rollback", 2, 1),
        ("promote", 1, 3),
        ("rollback", 3, 1),
    ]
    assert [move.reason for move in registry.history(session, "vowels")[0] if move.reason] == ["worse"]


def test_a_rollback_passes_over_what_was_deleted(session: Session, three: Sequence[str]) -> None:
    for ref in ("1", "2", "1", "2", "3"):
        registry.promote(session, "vowels", ref)
    registry.delete(session, "vowels@2")
    assert registry.rollback(session, "vowels").version == 1
    with pytest.raises(NothingBefore):
        registry.rollback(session, "vowels")  # the first of all is version 1 as well


def test_an_alias_that_moved_meanwhile_is_left_alone(session: Session, three: Sequence[str]) -> None:
    assert registry.promote(session, "vowels", "1", expected=0).changed
    with pytest.raises(AliasMoved, match="is version 1 now, and was expected not to exist"):
        registry.promote(session, "vowels", "2", expected=0)
    with pytest.raises(AliasMoved, match="is version 1 now, and was expected to be version 3"):
        registry.promote(session, "vowels", "2", expected=3)
    with pytest.raises(AliasMoved):
        registry.rollback(session, "vowels", expected=2)
    assert registry.promote(session, "vowels", "2", expected=1).changed
    assert not registry.promote(session, "vowels", "2", expected=1).changed  # the same request, sent again
    assert len(moves(session)) == 2


def test_an_alias_may_be_promoted_to_where_another_one_points(session: Session, three: Sequence[str]) -> None:
    registry.promote(session, "vowels", "2", alias="candidate")
    registry.promote(session, "vowels", "candidate")
    assert registry.aliases(session, ["vowels"]) == {"vowels": {"candidate": 2, "production": 2}}
    assert registry.demote(session, "vowels", "candidate").version == 2
    assert registry.aliases(session, ["vowels"]) == {"vowels": {"production": 2}}
    with pytest.raises(ModelNotFound, match="has no alias 'candidate'"):
        registry.rollback(session, "vowels", alias="candidate")
    for alias in ("latest", "3", "A", "a@b", ""):
        with pytest.raises(BadRequest):
            registry.promote(session, "vowels", "1", alias=alias)


def test_a_registered_job_stays_until_its_version_is_deleted(session: Session, three: Sequence[str]) -> None:
    registry.promote(session, "vowels", "3")
    with pytest.raises(JobRegistered, match=r"is the model vowels@3; .*\(DELETE /v1/models/vowels/versions/3\)"):
        control.delete(session, three[2])
    with pytest.raises(ModelInUse, match="alias production points at vowels@3"):
        registry.delete(session, "vowels@3")
    with pytest.raises(BadRequest, match="not clear which"):
        registry.delete(session, "vowels@latest")
    registry.demote(session, "vowels", "production")
    registry.delete(session, "vowels@3")
    control.delete(session, three[2])
    assert registry.get(session, "vowels").version == 2


def test_a_number_is_never_used_again(session: Session, three: Sequence[str]) -> None:
    for version in (1, 2, 3):
        registry.delete(session, f"vowels@{version}")
    with pytest.raises(ModelNotFound):
        registry.get(session, "vowels")
    assert registry.page(session) == ([], False)
    assert registry.register(session, "vowels", three[0]).version.version == 4


def test_models_are_listed_by_name_with_their_newest_version(session: Session, three: Sequence[str]) -> None:
    registry.register(session, "accents", three[0])
    rows, more = registry.page(session, limit=1)
    assert ([(row.name, row.version) for row in rows], more) == ([("accents", 1)], True)
    rows, more = registry.page(session, after="accents")
    assert ([(row.name, row.version) for row in rows], more) == ([("vowels", 3)], False)


def test_the_models_of_tenants_are_apart(session: Session, three: Sequence[str]) -> None:
    with pytest.raises(JobNotFound):
        registry.register(session, "vowels", three[0], tenant="acme")
    for act in (registry.get, registry.rollback, registry.history, registry.versions, registry.delete):
        with pytest.raises(ModelNotFound):
            act(session, "vowels", tenant="acme")  # type: ignore[operator]
    assert registry.page(session, tenant="acme") == ([], False)


def test_of_many_promotions_at_once_each_sees_the_one_before_it(engine: Engine, three: Sequence[str]) -> None:
    def promote(ref: int) -> None:
        with db.session_scope(engine) as session:
            registry.promote(session, "vowels", str(ref))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(promote, [1, 2, 3] * 6))
    with db.read_scope(engine) as session:
        made = moves(session)
        assert registry.get(session, "vowels@production").version == made[-1][2]
    assert made[0][1] is None
    assert [later[1] for _, later in pairwise(made)] == [earlier[2] for earlier, _ in pairwise(made)]


def test_of_two_who_expect_the_same_one_promotes(engine: Engine, three: Sequence[str]) -> None:
    with db.session_scope(engine) as session:
        registry.promote(session, "vowels", "1")

    def promote(ref: str) -> str | None:
        try:
            with db.session_scope(engine) as session:
                registry.promote(session, "vowels", ref, expected=1)
        except AliasMoved:
            return None
        return ref

    with ThreadPoolExecutor(2) as pool:
        winners = [ref for ref in pool.map(promote, ["2", "3"]) if ref]
    assert len(winners) == 1
    with db.read_scope(engine) as session:
        assert registry.get(session, "vowels@production").version == int(winners[0])
        assert len(moves(session)) == 2


def test_of_many_rollbacks_at_once_none_goes_back_to_the_same_place(engine: Engine, three: Sequence[str]) -> None:
    with db.session_scope(engine) as session:
        for ref in ("1", "2", "3"):
            registry.promote(session, "vowels", ref)

    def rollback(_: int) -> int | None:
        try:
            with db.session_scope(engine) as session:
                return registry.rollback(session, "vowels").version
        except NothingBefore:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(found for found in pool.map(rollback, range(4)) if found) == [1, 2]


def test_versions_that_come_at_once_are_numbered_one_by_one(engine: Engine, train: Train) -> None:
    def register(job_id: str) -> int:
        with db.session_scope(engine) as session:
            return registry.register(session, "new", job_id).version.version

    made = [train() for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(register, made * 2))
    assert numbers[:4] == numbers[4:]  # a job is one version
    assert sorted(numbers[:4]) == [1, 2, 3, 4]


def test_registering_and_deleting_a_job_at_once_leaves_both_or_neither(engine: Engine, train: Train) -> None:
    def register(job_id: str) -> bool:
        try:
            with db.session_scope(engine) as session:
                return registry.register(session, "vowels", job_id).created
        except JobNotFound:
            return False

    def delete(job_id: str) -> bool:
        try:
            with db.session_scope(engine) as session:
                control.delete(session, job_id)
        except JobRegistered:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            job_id = train()
            one, other = pool.submit(register, job_id), pool.submit(delete, job_id)
            assert one.result() != other.result()


def test_who_moved_an_alias_is_kept(session: Session, three: Sequence[str]) -> None:
    registry.promote(session, "vowels", "1", by="key_1", reason="x" * 2000)
    [move] = registry.history(session, "vowels")[0]
    assert isinstance(move, ModelMove)
    assert (move.by, move.alias, len(move.reason or "")) == ("key_1", "production", registry.MOST_TEXT + 1)
