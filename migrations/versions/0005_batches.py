"""Jobs that were submitted together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("varied", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_batches_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index("ix_batches_tenant_id", "batches", ["tenant", "id"], unique=False)
    op.add_column("jobs", sa.Column("batch_id", sa.Text(), nullable=True))
    op.create_index(op.f("ix_jobs_batch_id"), "jobs", ["batch_id"], unique=False)


def downgrade() -> None:
    """The jobs stay, and no longer know what they were submitted with."""
    op.drop_index(op.f("ix_jobs_batch_id"), "jobs")
    op.drop_column("jobs", "batch_id")
    op.drop_table("batches")
