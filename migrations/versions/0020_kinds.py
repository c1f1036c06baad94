"""Kinds of jobs: those that were there train; others predict."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("kind", sa.Text(), nullable=False, server_default="train"))
    op.create_index("ix_jobs_tenant_kind_id", "jobs", ["tenant", "kind", "id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_tenant_kind_id", "jobs")
    op.drop_column("jobs", "kind")
