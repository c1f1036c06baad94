"""On SQLite the epochs lie in the order of their key, so that a history is one range of the table.

SQLite cannot change that of a table, so it is made again. PostgreSQL keeps its table.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _make_again(with_rowid=False)


def downgrade() -> None:
    _make_again(with_rowid=True)


def _make_again(*, with_rowid: bool) -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    op.rename_table("epochs", "epochs_before")
    op.create_table(
        "epochs",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("record", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("fold", sa.Integer(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_epochs_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "epoch", name="pk_epochs"),
        sqlite_with_rowid=with_rowid,
    )
    op.execute("INSERT INTO epochs (job_id, epoch, record, fold) SELECT job_id, epoch, record, fold FROM epochs_before")
    op.drop_table("epochs_before")
