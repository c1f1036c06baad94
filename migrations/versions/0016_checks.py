"""A data set has a status, because a long check goes on after the answer to its upload."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("status", sa.Text(), nullable=False, server_default="ready"))
    op.add_column("datasets", sa.Column("message", sa.Text(), nullable=True))
    op.add_column("datasets", sa.Column("problems", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("datasets", sa.Column("same_as", sa.Text(), nullable=True))
    op.create_table(
        "dataset_checks",
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("schema", sa.JSON(), nullable=False),
        sa.Column("schema_of", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", name=op.f("pk_dataset_checks")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_checks_dataset_id")),
    )


def downgrade() -> None:
    """A version that is not ready is deleted: the code before knows no other state. Its file is swept away."""
    op.drop_table("dataset_checks")
    op.execute("UPDATE datasets SET deleted_at = created_at WHERE status <> 'ready' AND deleted_at IS NULL")
    for name in ("same_as", "problems", "message", "status"):
        op.drop_column("datasets", name)
