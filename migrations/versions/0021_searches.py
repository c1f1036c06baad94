"""Searches, and which trial of which search a job is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

DUE = "due_at IS NOT NULL"
TRIALS = "search_id IS NOT NULL"
GOING_ON = "search_id IS NOT NULL AND status NOT IN ('succeeded', 'failed', 'cancelled')"


def upgrade() -> None:
    op.create_table(
        "searches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("settings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("parallel", sa.Integer(), nullable=False),
        sa.Column("trials", sa.Integer(), nullable=False),
        sa.Column("made", sa.Integer(), nullable=False),
        sa.Column("refused", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_searches_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
    )
    op.create_index("ix_searches_tenant_id", "searches", ["tenant", "id"], unique=False)
    _partial_index("ix_searches_due_at", "searches", ["due_at"], DUE)
    # In SQLite a foreign key can only come with its column.
    op.execute("ALTER TABLE jobs ADD COLUMN search_id TEXT CONSTRAINT fk_jobs_search_id REFERENCES searches (id)")
    op.add_column("jobs", sa.Column("trial", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("choices", sa.JSON(none_as_null=True), nullable=True))
    _partial_index("ix_jobs_search_id_trial", "jobs", ["search_id", "trial"], TRIALS, unique=True)
    _partial_index("ix_jobs_search_going_on", "jobs", ["search_id"], GOING_ON)


def downgrade() -> None:
    """The jobs stay, and no longer know whose trials they were."""
    op.drop_index("ix_jobs_search_going_on", "jobs")
    op.drop_index("ix_jobs_search_id_trial", "jobs")
    for name in ("choices", "trial", "search_id"):
        op.drop_column("jobs", name)
    op.drop_table("searches")


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
