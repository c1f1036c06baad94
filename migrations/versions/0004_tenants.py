"""Tenants, their keys, and who did what. Everything that there is belongs to the tenant `default`.

Columns are added and indexes exchanged in place, so that the triggers of jobs stay. Only the uniqueness of data sets
cannot be changed in place on SQLite: that table is made anew.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

DATASET = ["id", "name", "version", "sha256", "bytes", "summary", "created_at", "deleted_at"]


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("max_queued", sa.Integer(), nullable=True),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("max_bytes", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tenants")),
    )
    at = "(julianday('now') - 2440587.5) * 86400.0" if _is_sqlite() else "extract(epoch FROM clock_timestamp())"
    op.execute(f"INSERT INTO tenants (name, created_at) VALUES ('default', {at})")
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("last_used_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_api_keys_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant", "id"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("remote_address", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_tenant_id", "audit", ["tenant", "id"], unique=False)

    op.add_column("jobs", sa.Column("tenant", sa.Text(), server_default="default", nullable=False))
    for old in ("status", "queue", "name"):
        op.drop_index(f"ix_jobs_{old}_id", "jobs")
        op.create_index(f"ix_jobs_tenant_{old}_id", "jobs", ["tenant", old, "id"], unique=False)
    op.create_index("ix_jobs_tenant_id", "jobs", ["tenant", "id"], unique=False)

    unique = sa.UniqueConstraint("tenant", "name", "version", name=op.f("uq_datasets_tenant_name_version"))
    if _is_sqlite():
        _rebuild_datasets(sa.Column("tenant", sa.Text(), server_default="default", nullable=False), unique)
    else:
        op.add_column("datasets", sa.Column("tenant", sa.Text(), server_default="default", nullable=False))
        op.drop_constraint(op.f("uq_datasets_name_version"), "datasets", type_="unique")
        op.create_unique_constraint(op.f("uq_datasets_tenant_name_version"), "datasets", ["tenant", "name", "version"])
    op.create_index("ix_datasets_tenant_id", "datasets", ["tenant", "id"], unique=False)
    op.execute("UPDATE idempotency_keys SET scope = 'default ' || scope")


def downgrade() -> None:
    """Without tenants everybody would see everything, and two might have a data set of one name: refused."""
    others = op.get_bind().scalar(sa.text("SELECT count(*) FROM tenants WHERE name <> 'default'"))
    if others:
        many = f"{others} tenant{'s' if others > 1 else ''}"
        raise RuntimeError(f"Besides `default` there is work of {many}, which an older Loopline would mix up.")
    op.execute("UPDATE idempotency_keys SET scope = substr(scope, 9) WHERE scope LIKE 'default %'")
    op.drop_index("ix_datasets_tenant_id", "datasets")
    if _is_sqlite():
        _rebuild_datasets(sa.UniqueConstraint("name", "version", name=op.f("uq_datasets_name_version")))
    else:
        op.drop_constraint(op.f("uq_datasets_tenant_name_version"), "datasets", type_="unique")
        op.create_unique_constraint(op.f("uq_datasets_name_version"), "datasets", ["name", "version"])
        op.drop_column("datasets", "tenant")
    op.drop_index("ix_jobs_tenant_id", "jobs")
    for old in ("status", "queue", "name"):
        op.drop_index(f"ix_jobs_tenant_{old}_id", "jobs")
        op.create_index(f"ix_jobs_{old}_id", "jobs", [old, "id"], unique=False)
    op.drop_column("jobs", "tenant")
    for table in ("audit", "api_keys", "tenants"):
        op.drop_table(table)


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _rebuild_datasets(*changed: sa.schema.SchemaItem) -> None:
    """The table anew, with the same rows. Jobs point at them: SQLite counts what is amiss at the commit only."""
    op.execute("PRAGMA defer_foreign_keys = ON")  # ends with the transaction
    op.execute(f"CREATE TEMPORARY TABLE kept AS SELECT {', '.join(DATASET)} FROM datasets")
    op.drop_table("datasets")
    op.create_table(
        "datasets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("summary", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        *changed,
    )
    op.create_index(op.f("ix_datasets_sha256"), "datasets", ["sha256"], unique=False)
    op.execute(f"INSERT INTO datasets ({', '.join(DATASET)}) SELECT {', '.join(DATASET)} FROM kept")
    op.execute("DROP TABLE kept")
