"""What the database has of searches, batches, schedules and models when everything is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services import db
from services.orm import Batch, Firing, ModelAlias, ModelMove, ModelVersion, Schedule, Search
from tests.chaos.groups import Group


@dataclass
class SearchSeen:
    id: str
    name: str | None
    status: str
    wanted: int
    made: int
    parallel: int
    refused: Sequence[Mapping[str, Any]]


@dataclass
class BatchSeen:
    id: str
    name: str | None
    schedule: str | None
    ended_at: float | None


@dataclass
class ScheduleSeen:
    id: str
    name: str
    created_at: float
    paused_at: float | None


@dataclass
class FiringSeen:
    id: str
    schedule: str
    slot: float | None
    outcome: str
    reason: str | None
    batch: str | None


@dataclass
class VersionSeen:
    model: str
    version: int
    job: str


@dataclass
class MoveSeen:
    """A move of an alias."""

    model: str
    alias: str
    action: str
    version: int | None
    """It points there since."""


@dataclass
class GroupsSeen:
    """Everything, and what the API has accepted of it."""

    groups: list[Group] = field(default_factory=list)
    searches: list[SearchSeen] = field(default_factory=list)
    batches: list[BatchSeen] = field(default_factory=list)
    schedules: list[ScheduleSeen] = field(default_factory=list)
    firings: list[FiringSeen] = field(default_factory=list)
    """Those that were made first, first."""
    versions: list[VersionSeen] = field(default_factory=list)
    moves: list[MoveSeen] = field(default_factory=list)
    aliases: dict[str, dict[str, int]] = field(default_factory=dict)
    """By model and alias, the version."""


def read_groups(engine: Engine, groups: Sequence[Group]) -> GroupsSeen:
    """Every search, batch, schedule and model, each list in the order in which they came."""
    found = GroupsSeen(list(groups))
    with db.read_scope(engine) as session:
        for each in session.scalars(sa.select(Search).order_by(Search.id)):
            told = (each.id, each.name, each.status, each.trials, each.made, each.parallel, each.refused)
            found.searches.append(SearchSeen(*told))
        for each in session.scalars(sa.select(Batch).order_by(Batch.id)):
            found.batches.append(BatchSeen(each.id, each.name, each.schedule_id, each.ended_at))
        for each in session.scalars(sa.select(Schedule).order_by(Schedule.id)):
            found.schedules.append(ScheduleSeen(each.id, each.name, each.created_at, each.paused_at))
        for each in session.scalars(sa.select(Firing).order_by(Firing.id)):
            told = (each.id, each.schedule_id, each.slot, each.outcome, each.reason, each.batch_id)
            found.firings.append(FiringSeen(*told))
        for each in session.scalars(sa.select(ModelVersion).order_by(ModelVersion.version)):
            found.versions.append(VersionSeen(each.name, each.version, each.job_id))
        for each in session.scalars(sa.select(ModelMove).order_by(ModelMove.id)):
            found.moves.append(MoveSeen(each.name, each.alias, each.action, each.to_version))
        for each in session.scalars(sa.select(ModelAlias)):
            found.aliases.setdefault(each.name, {})[each.alias] = each.version
    return found
