"""The best epoch of a job that has succeeded is the one whose weights are its model.

Before, the service judged it by a rule of its own. That rule differed from the trainer's where an epoch had no finite
number to be judged by.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

JOBS = sa.table(
    "jobs",
    sa.column("id", sa.Text()),
    sa.column("status", sa.Text()),
    sa.column("spec", sa.JSON()),
    sa.column("best", sa.JSON(none_as_null=True)),
    sa.column("result", sa.JSON(none_as_null=True)),
    sa.column("revision", sa.Integer()),
)
EPOCHS = sa.table(
    "epochs", sa.column("job_id", sa.Text()), sa.column("epoch", sa.Integer()), sa.column("record", sa.JSON())
)


def upgrade() -> None:
    connection = op.get_bind()
    trained = JOBS.c.result["best_epoch"].as_integer()
    told = JOBS.c.best["epoch"].as_integer()
    wrong = sa.select(JOBS).where(JOBS.c.status == "succeeded", trained.is_not(None), told.is_distinct_from(trained))
    for job in connection.execute(wrong).mappings().all():
        epoch = job["result"]["best_epoch"]
        at_best = sa.select(EPOCHS.c.record).where(EPOCHS.c.job_id == job["id"], EPOCHS.c.epoch == epoch)
        best = {"epoch": epoch, **_judged(job, connection.scalar(at_best) or {})}
        change = sa.update(JOBS).where(JOBS.c.id == job["id"])
        connection.execute(change.values(best=best, revision=JOBS.c.revision + 1))


def _judged(job: Any, record: dict[str, Any]) -> dict[str, Any]:
    """By which number the trainer judged: of validation where there is such a part, as the result's metrics say."""
    by = job["spec"].get("training", {}).get("best_by", "loss")
    has_validation = any(name.startswith("validation_") for name in job["result"].get("metrics", {}))
    metric = f"validation_{by}" if has_validation else f"train_{by}"
    return {"metric": metric, "value": record.get(metric)}


def downgrade() -> None:
    """Nothing: what stands there is right for the version before as well."""
