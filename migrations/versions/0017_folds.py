"""Cross-validation: the fold of a job, and of its epochs, steps and checkpoints. What is there has no folds.

Epochs and steps are numbered over all folds of a job, so no key changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

HISTORIES = ("epochs", "step_chunks", "checkpoints")


def upgrade() -> None:
    for table in HISTORIES:
        op.add_column(table, sa.Column("fold", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("fold", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "fold")
    for table in HISTORIES:
        op.drop_column(table, "fold")
