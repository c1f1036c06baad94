"""Moves of jobs, enforced and written down by the database; events, log lines, workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A migration is never changed, so the moves stand here once more; a test holds them equal to services/states.py.
MOVES = (
    *(("queued", to) for to in ("running", "paused", "cancelled", "failed")),
    *(("running", to) for to in ("queued", "paused", "succeeded", "failed", "cancelled")),
    *(("paused", to) for to in ("queued", "cancelled")),
)
ALLOWED = f"(OLD.status, NEW.status) IN (VALUES {', '.join(str(move) for move in MOVES)})"
# An attempt begins with the move to running, and its number never changes otherwise: it is the fence.
NUMBERED = "NEW.attempt = OLD.attempt + (CASE WHEN OLD.status = 'queued' AND NEW.status = 'running' THEN 1 ELSE 0 END)"
LEVEL = """CASE WHEN NEW.status = 'failed' THEN 'error'
    WHEN NEW.status IN ('queued', 'paused') AND NEW.reason IS NOT NULL THEN 'warning' ELSE 'info' END"""
COLUMNS = "(job_id, at, type, level, attempt, worker, from_status, to_status, reason, message)"


def values(before: str, at: str) -> str:
    told = "NEW.status, NEW.reason, NEW.message"
    return f"(NEW.id, {at}, 'status', {LEVEL}, NEW.attempt, NEW.worker, {before}, {told})"


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("from_status", sa.Text(), nullable=True),
        sa.Column("to_status", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_events_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_job_id_id", "events", ["job_id", "id"], unique=False)
    op.create_table(
        "log_lines",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_log_lines_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_log_lines")),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("heard_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.add_column("jobs", sa.Column("log_lines", sa.BigInteger(), server_default="0", nullable=False))
    op.execute(
        "INSERT INTO events (job_id, at, type, level, attempt, worker, from_status, to_status, reason, message)"
        " SELECT job_id, at, 'status', CASE WHEN to_status = 'failed' THEN 'error' ELSE 'info' END, attempt, worker,"
        " from_status, to_status, reason, message FROM transitions ORDER BY id"
    )
    op.drop_table("transitions")
    (_sqlite if op.get_bind().dialect.name == "sqlite" else _postgresql)()


def _sqlite() -> None:
    at = "(julianday('now') - 2440587.5) * 86400.0"
    op.execute(f"""CREATE TRIGGER jobs_refuse_moves BEFORE UPDATE OF status, attempt ON jobs
        WHEN (NEW.status <> OLD.status AND NOT ({ALLOWED})) OR NOT ({NUMBERED})
        BEGIN SELECT RAISE(ABORT, 'a job cannot move like this'); END""")
    op.execute("""CREATE TRIGGER jobs_refuse_births BEFORE INSERT ON jobs
        WHEN NEW.status <> 'queued' OR NEW.attempt <> 0
        BEGIN SELECT RAISE(ABORT, 'a new job is queued and has no attempt'); END""")
    op.execute(f"""CREATE TRIGGER jobs_write_births AFTER INSERT ON jobs
        BEGIN INSERT INTO events {COLUMNS} VALUES {values("NULL", at)}; END""")
    op.execute(f"""CREATE TRIGGER jobs_write_moves AFTER UPDATE OF status ON jobs WHEN NEW.status <> OLD.status
        BEGIN INSERT INTO events {COLUMNS} VALUES {values("OLD.status", at)}; END""")


def _postgresql() -> None:
    at = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
    op.execute(f"""CREATE FUNCTION jobs_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN
            IF NEW.status <> 'queued' OR NEW.attempt <> 0 THEN
                RAISE EXCEPTION 'a new job is queued and has no attempt' USING ERRCODE = 'check_violation';
            END IF;
        ELSIF (NEW.status <> OLD.status AND NOT ({ALLOWED})) OR NOT ({NUMBERED}) THEN
            RAISE EXCEPTION 'a job cannot move like this: % to %', OLD.status, NEW.status
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW; END $$""")
    op.execute(f"""CREATE FUNCTION jobs_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO events {COLUMNS} VALUES {values("NULL", at)};
        ELSE
            INSERT INTO events {COLUMNS} VALUES {values("OLD.status", at)};
        END IF;
        RETURN NULL; END $$""")
    op.execute("""CREATE TRIGGER jobs_refuse_moves BEFORE INSERT OR UPDATE OF status, attempt ON jobs
        FOR EACH ROW EXECUTE FUNCTION jobs_refuse()""")
    op.execute("""CREATE TRIGGER jobs_write_births AFTER INSERT ON jobs
        FOR EACH ROW EXECUTE FUNCTION jobs_write()""")
    op.execute("""CREATE TRIGGER jobs_write_moves AFTER UPDATE OF status ON jobs
        FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION jobs_write()""")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name in ("refuse_moves", "refuse_births", "write_births", "write_moves"):
            op.execute(f"DROP TRIGGER jobs_{name}")
    else:
        for name in ("refuse_moves", "write_births", "write_moves"):
            op.execute(f"DROP TRIGGER jobs_{name} ON jobs")
        op.execute("DROP FUNCTION jobs_refuse()")
        op.execute("DROP FUNCTION jobs_write()")
    op.create_table(
        "transitions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=True),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_transitions_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transitions")),
    )
    op.create_index(op.f("ix_transitions_job_id"), "transitions", ["job_id"], unique=False)
    op.execute(
        "INSERT INTO transitions (job_id, from_status, to_status, attempt, reason, message, worker, at)"
        " SELECT job_id, from_status, to_status, attempt, reason, message, worker, at FROM events"
        " WHERE type = 'status' ORDER BY id"
    )
    op.drop_column("jobs", "log_lines")
    op.drop_table("workers")
    op.drop_table("log_lines")
    op.drop_table("events")
