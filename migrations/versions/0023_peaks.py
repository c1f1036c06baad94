"""A few steps of each chunk, of which a chart of a long run is made. Chunks of before have none, and are read whole."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("step_chunks", sa.Column("peaks", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """A long run is read whole again."""
    op.drop_column("step_chunks", "peaks")
