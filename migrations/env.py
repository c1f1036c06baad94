"""What Alembic runs: all migrations in one transaction, on the connection of `db.migrate` or on one of its own.

After a new migration raise `services.db.REVISION`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from services import db
from services.orm import Base
from services.settings import Settings


def run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters a table by making a new one
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    engine = db.engine(Settings().database_url)
    with engine.begin() as connection:
        run(connection)
    engine.dispose()
