"""What lists read: the tags of jobs as a table of their own, and the jobs of a batch in order."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

GOES_ON = sa.text("status NOT IN ('succeeded', 'failed', 'cancelled')")


def upgrade() -> None:
    op.create_table(
        "job_tags",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", "value", "job_id", name=op.f("pk_job_tags")),
        sqlite_with_rowid=False,
    )
    each = "json_each" if _is_sqlite() else "json_each_text"
    op.execute(
        "INSERT INTO job_tags (tenant, key, value, job_id)"
        f" SELECT jobs.tenant, tag.key, tag.value, jobs.id FROM jobs, {each}(jobs.tags) AS tag"
    )
    op.create_index("ix_jobs_batch_id_id", "jobs", ["batch_id", "id"], unique=False)
    op.drop_index("ix_jobs_batch_id", "jobs")
    _going_on(["batch_id", "status"])  # it covers its query, or SQLite would read the jobs that have ended instead
    (_sqlite if _is_sqlite() else _postgresql)()


def downgrade() -> None:
    on = "" if _is_sqlite() else " ON jobs"
    op.execute(f"DROP TRIGGER jobs_tags_written{on}")
    op.execute(f"DROP TRIGGER jobs_tags_deleted{on}")
    if not _is_sqlite():
        op.execute("DROP FUNCTION jobs_write_tags()")
        op.execute("DROP FUNCTION jobs_delete_tags()")
    _going_on(["batch_id"])
    op.create_index("ix_jobs_batch_id", "jobs", ["batch_id"], unique=False)
    op.drop_index("ix_jobs_batch_id_id", "jobs")
    op.drop_table("job_tags")


def _going_on(columns: list[str]) -> None:
    op.drop_index("ix_jobs_batch_going_on", "jobs")
    op.create_index(
        "ix_jobs_batch_going_on", "jobs", columns, unique=False, sqlite_where=GOES_ON, postgresql_where=GOES_ON
    )


def _sqlite() -> None:
    op.execute(
        "CREATE TRIGGER jobs_tags_written AFTER INSERT ON jobs WHEN NEW.tags <> '{}' BEGIN"
        " INSERT INTO job_tags (tenant, key, value, job_id)"
        " SELECT NEW.tenant, key, value, NEW.id FROM json_each(NEW.tags); END"
    )
    op.execute(
        "CREATE TRIGGER jobs_tags_deleted AFTER DELETE ON jobs WHEN OLD.tags <> '{}' BEGIN"
        " DELETE FROM job_tags WHERE tenant = OLD.tenant AND job_id = OLD.id"
        " AND (key, value) IN (SELECT key, value FROM json_each(OLD.tags)); END"
    )


def _postgresql() -> None:
    op.execute("""CREATE FUNCTION jobs_write_tags() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO job_tags (tenant, key, value, job_id)
            SELECT NEW.tenant, tag.key, tag.value, NEW.id FROM json_each_text(NEW.tags) AS tag;
        RETURN NULL; END $$""")
    op.execute("""CREATE FUNCTION jobs_delete_tags() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM job_tags USING json_each_text(OLD.tags) AS tag WHERE job_tags.tenant = OLD.tenant
            AND job_tags.key = tag.key AND job_tags.value = tag.value AND job_tags.job_id = OLD.id;
        RETURN NULL; END $$""")
    for name, when, row, function in (
        ("jobs_tags_written", "INSERT", "NEW", "jobs_write_tags"),
        ("jobs_tags_deleted", "DELETE", "OLD", "jobs_delete_tags"),
    ):
        op.execute(
            f"CREATE TRIGGER {name} AFTER {when} ON jobs FOR EACH ROW WHEN ({row}.tags::text <> '{{}}')"
            f" EXECUTE FUNCTION {function}()"
        )


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
