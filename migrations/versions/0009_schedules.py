"""Schedules, and what came of each of their slots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("submit", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("catch_up_seconds", sa.Integer(), nullable=False),
        sa.Column("jitter_seconds", sa.Integer(), nullable=False),
        sa.Column("only_new_data", sa.Boolean(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("paused_at", sa.Double(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("next_slot", sa.Double(), nullable=True),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("tenant", "name", name=op.f("uq_schedules_tenant_name")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_schedules_tenant")),
    )
    op.create_index(
        "ix_schedules_due_at",
        "schedules",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "schedule_firings",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("slot", sa.Double(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("datasets", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule_firings")),
        sa.UniqueConstraint("schedule_id", "slot", name=op.f("uq_schedule_firings_schedule_id_slot")),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_schedule_firings_schedule_id"), ondelete="CASCADE"
        ),
    )
    op.create_index("ix_schedule_firings_schedule_id_id", "schedule_firings", ["schedule_id", "id"], unique=False)
    op.create_index("ix_schedule_firings_created_at", "schedule_firings", ["created_at"], unique=False)
    op.create_index(
        "ix_schedule_firings_outcome",
        "schedule_firings",
        ["outcome", "schedule_id"],
        unique=False,
        sqlite_where=sa.text("outcome IN ('fired', 'waiting')"),
        postgresql_where=sa.text("outcome IN ('fired', 'waiting')"),
    )
    op.add_column("batches", sa.Column("schedule_id", sa.Text(), nullable=True))


def downgrade() -> None:
    """The batches stay, and no longer know what submitted them."""
    op.drop_column("batches", "schedule_id")
    op.drop_table("schedule_firings")
    op.drop_table("schedules")
