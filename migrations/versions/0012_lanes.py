"""Tenants take turns: lanes, the shares of tenants, and the place of a job in its lane."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")
ALONE = sa.text("status = 'queued' AND batch_id IS NULL")

# Batches take turns from now on, and so do the jobs without one, as a group.
PLACES = """
UPDATE jobs SET turn = placed.turn FROM (
    SELECT id, row_number() OVER (PARTITION BY queue, priority, tenant, batch_id ORDER BY id) - 1 AS turn
    FROM jobs WHERE status = 'queued'
) AS placed WHERE jobs.id = placed.id
"""
LANES = """
INSERT INTO lanes (queue, priority, tenant, turn, last_turn, has_jobs)
SELECT DISTINCT queue, priority, tenant, CAST(0 AS double precision), CAST(0 AS double precision), true
FROM jobs WHERE status = 'queued'
"""

# A lane that has had no jobs begins at the turn of the lane that went last: nobody saves up turns.
NOW = "COALESCE((SELECT max(last_turn) FROM lanes WHERE queue = {0}queue AND priority = {0}priority), 0)"
ENTERS = "NEW.status = 'queued'"
MOVED = """(NEW.status <> OLD.status OR NEW.queue <> OLD.queue OR NEW.priority <> OLD.priority
    OR NEW.tenant <> OLD.tenant)"""


def upgrade() -> None:
    op.add_column("tenants", sa.Column("share", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("turn", sa.Double(), server_default="0", nullable=False))
    op.create_table(
        "lanes",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("turn", sa.Double(), nullable=False),
        sa.Column("last_turn", sa.Double(), nullable=False),
        sa.Column("has_jobs", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "priority", "tenant", name=op.f("pk_lanes")),
    )
    op.create_index(
        "ix_lanes_order",
        "lanes",
        ["queue", sa.text("priority DESC"), "turn", "tenant"],
        unique=False,
        sqlite_where=sa.text("has_jobs = 1"),
        postgresql_where=sa.text("has_jobs"),
    )
    op.create_index("ix_lanes_last_turn", "lanes", ["queue", "priority", "last_turn"], unique=False)
    op.execute(PLACES)
    op.execute(LANES)
    op.drop_index("ix_jobs_queued", "jobs")
    _index("ix_jobs_queued", ["queue", "tenant", sa.text("priority DESC"), "turn", "id", "not_before"], QUEUED)
    _index("ix_jobs_queued_alone", ["queue", "tenant", "priority", "turn"], ALONE)
    (_sqlite if _is_sqlite() else _postgresql)()


def downgrade() -> None:
    on = "" if _is_sqlite() else " ON jobs"
    for name in ("jobs_enter_lane_at_birth", "jobs_enter_lane"):
        op.execute(f"DROP TRIGGER {name}{on}")
    if not _is_sqlite():
        op.execute("DROP FUNCTION jobs_enter_lane()")
        op.execute("DROP FUNCTION enter_lane(text, integer, text)")
    op.drop_index("ix_jobs_queued_alone", "jobs")
    op.drop_index("ix_jobs_queued", "jobs")
    _index("ix_jobs_queued", ["queue", sa.text("priority DESC"), "id", "not_before"], QUEUED)
    op.drop_table("lanes")
    op.drop_column("jobs", "turn")
    op.drop_column("tenants", "share")


def _sqlite() -> None:
    enter = f"""BEGIN
        INSERT INTO lanes (queue, priority, tenant, turn, last_turn, has_jobs)
            VALUES (NEW.queue, NEW.priority, NEW.tenant, {NOW.format("NEW.")}, 0, 1)
            ON CONFLICT (queue, priority, tenant) DO UPDATE SET has_jobs = 1, turn = max(turn, excluded.turn)
            WHERE NOT has_jobs;
        END"""
    op.execute(f"CREATE TRIGGER jobs_enter_lane_at_birth AFTER INSERT ON jobs WHEN {ENTERS} {enter}")
    op.execute(
        "CREATE TRIGGER jobs_enter_lane AFTER UPDATE OF status, queue, priority, tenant ON jobs"
        f" WHEN {ENTERS} AND {MOVED} {enter}"
    )


def _postgresql() -> None:
    # The row is held against `lanes.close`, which marks it as empty, and against nobody else: claims go on while a
    # large batch is inserted.
    op.execute(f"""CREATE FUNCTION enter_lane(a_queue text, a_priority integer, a_tenant text) RETURNS void
        LANGUAGE plpgsql AS $$
        DECLARE
            is_open boolean;
            is_there boolean;
            start double precision;
        BEGIN
            LOOP
                SELECT has_jobs INTO is_open FROM lanes
                    WHERE queue = a_queue AND priority = a_priority AND tenant = a_tenant FOR KEY SHARE;
                is_there := FOUND;
                EXIT WHEN is_open;
                start := {NOW.format("a_")};
                IF is_there THEN
                    UPDATE lanes SET has_jobs = true, turn = greatest(turn, start)
                        WHERE queue = a_queue AND priority = a_priority AND tenant = a_tenant AND NOT has_jobs;
                    EXIT;
                END IF;
                INSERT INTO lanes (queue, priority, tenant, turn, last_turn, has_jobs)
                    VALUES (a_queue, a_priority, a_tenant, start, 0, true) ON CONFLICT DO NOTHING;
            END LOOP;
        END $$""")
    op.execute("""CREATE FUNCTION jobs_enter_lane() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM enter_lane(NEW.queue, NEW.priority, NEW.tenant);
        RETURN NULL; END $$""")
    op.execute(f"""CREATE TRIGGER jobs_enter_lane_at_birth AFTER INSERT ON jobs
        FOR EACH ROW WHEN ({ENTERS}) EXECUTE FUNCTION jobs_enter_lane()""")
    op.execute(f"""CREATE TRIGGER jobs_enter_lane AFTER UPDATE OF status, queue, priority, tenant ON jobs
        FOR EACH ROW WHEN ({ENTERS} AND {MOVED}) EXECUTE FUNCTION jobs_enter_lane()""")


def _index(name: str, columns: list[str | sa.TextClause], where: sa.TextClause) -> None:
    op.create_index(name, "jobs", columns, unique=False, sqlite_where=where, postgresql_where=where)


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
