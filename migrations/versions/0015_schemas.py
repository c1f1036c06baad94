"""Data sets keep the format of the file they came from, its schema and the report of its check."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("format", sa.Text(), nullable=False, server_default="npz"))
    op.add_column("datasets", sa.Column("schema", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("datasets", sa.Column("report", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("datasets", sa.Column("source_sha256", sa.Text(), nullable=True))
    op.add_column("datasets", sa.Column("source_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for name in ("source_bytes", "source_sha256", "report", "schema", "format"):
        op.drop_column("datasets", name)
