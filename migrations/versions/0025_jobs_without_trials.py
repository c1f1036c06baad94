"""The jobs that are no trials of a search, newest first, by an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("trial IS NULL")
    op.create_index(
        "ix_jobs_tenant_id_no_trials",
        "jobs",
        ["tenant", "id"],
        unique=False,
        sqlite_where=where,
        postgresql_where=where,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_tenant_id_no_trials", table_name="jobs")
