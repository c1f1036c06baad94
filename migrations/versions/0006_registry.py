"""The registry of models: versions by name, aliases that point at them, and every move of an alias."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OF_MODEL = (["tenant", "name"], ["models.tenant", "models.name"])
OF_VERSION = (
    ["tenant", "name", "version"],
    ["model_versions.tenant", "model_versions.name", "model_versions.version"],
)


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("newest_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_models")),
    )
    op.create_table(
        "model_versions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", "version", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("tenant", "name", "job_id", name=op.f("uq_model_versions_tenant_name_job_id")),
        sa.ForeignKeyConstraint(*OF_MODEL, name=op.f("fk_model_versions_tenant_name")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_model_versions_job_id")),
    )
    op.create_index(op.f("ix_model_versions_job_id"), "model_versions", ["job_id"], unique=False)
    op.create_table(
        "model_moves",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("from_version", sa.Integer(), nullable=True),
        sa.Column("to_version", sa.Integer(), nullable=True),
        sa.Column("by", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("before_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_moves")),
        sa.ForeignKeyConstraint(*OF_MODEL, name=op.f("fk_model_moves_tenant_name")),
    )
    op.create_index("ix_model_moves_tenant_name_id", "model_moves", ["tenant", "name", "id"], unique=False)
    op.create_table(
        "model_aliases",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("move_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", "alias", name=op.f("pk_model_aliases")),
        sa.ForeignKeyConstraint(*OF_VERSION, name=op.f("fk_model_aliases_tenant_name_version")),
        sa.ForeignKeyConstraint(["move_id"], ["model_moves.id"], name=op.f("fk_model_aliases_move_id")),
    )


def downgrade() -> None:
    for table in ("model_aliases", "model_moves", "model_versions", "models"):
        op.drop_table(table)
