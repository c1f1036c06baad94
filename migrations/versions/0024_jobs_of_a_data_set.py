"""The jobs of a data set, newest first, by an index."""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_tenant_dataset_id_id", "jobs", ["tenant", "dataset_id", "id"], unique=False)
    op.drop_index("ix_jobs_dataset_id", table_name="jobs")


def downgrade() -> None:
    op.create_index("ix_jobs_dataset_id", "jobs", ["dataset_id"], unique=False)
    op.drop_index("ix_jobs_tenant_dataset_id_id", table_name="jobs")
