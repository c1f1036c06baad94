"""Data sets keep what may have been meant otherwise, and jobs the warnings that apply to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("suspicions", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("jobs", sa.Column("warnings", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "warnings")
    op.drop_column("datasets", "suspicions")
