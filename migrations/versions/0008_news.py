"""The end of a batch, webhooks for one job or batch only, and secrets that are changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Nobody is told of batches that ended before there was somebody to notice.
ENDED = """
UPDATE batches SET ended_at = COALESCE((SELECT max(finished_at) FROM jobs WHERE batch_id = batches.id), created_at)
WHERE NOT EXISTS (
    SELECT 1 FROM jobs WHERE batch_id = batches.id AND status NOT IN ('succeeded', 'failed', 'cancelled')
)
"""
GOING_ON = sa.text("ended_at IS NULL")
JOB_GOES_ON = sa.text("status NOT IN ('succeeded', 'failed', 'cancelled')")


def upgrade() -> None:
    op.add_column("batches", sa.Column("ended_at", sa.Double(), nullable=True))
    op.execute(ENDED)
    op.create_index("ix_batches_going_on", "batches", ["id"], sqlite_where=GOING_ON, postgresql_where=GOING_ON)
    where = {"sqlite_where": JOB_GOES_ON, "postgresql_where": JOB_GOES_ON}
    op.create_index("ix_jobs_batch_going_on", "jobs", ["batch_id"], **where)
    op.add_column("webhooks", sa.Column("only", sa.Text(), nullable=True))
    op.add_column("webhooks", sa.Column("old_secrets", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    """Webhooks that would hear of other things than before go, with their messages: those for one job or batch only,
    which would hear of all jobs, and those that are told of nothing else than what is new."""
    hooks = sa.table("webhooks", sa.column("id"), sa.column("events", sa.JSON()), sa.column("only"))
    deliveries = sa.table("deliveries", sa.column("webhook_id"))
    connection = op.get_bind()
    for webhook_id, events, only in connection.execute(sa.select(hooks)).all():
        known = [event for event in events if event.startswith("job.")]
        if known and only is None:
            connection.execute(sa.update(hooks).where(hooks.c.id == webhook_id).values(events=known))
        else:
            connection.execute(sa.delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
            connection.execute(sa.delete(hooks).where(hooks.c.id == webhook_id))
    for column in ("only", "old_secrets"):
        op.drop_column("webhooks", column)
    op.drop_index("ix_jobs_batch_going_on", "jobs")
    op.drop_index("ix_batches_going_on", "batches")
    op.drop_column("batches", "ended_at")
