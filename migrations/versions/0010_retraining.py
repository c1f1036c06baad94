"""Jobs remember which models they are compared with; what came of files in the inbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("baselines", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "inbox_files",
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("stamp", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("place", name=op.f("pk_inbox_files")),
    )
    op.create_index("ix_inbox_files_tenant_at", "inbox_files", ["tenant", "at"], unique=False)


def downgrade() -> None:
    op.drop_table("inbox_files")
    op.drop_column("jobs", "baselines")
