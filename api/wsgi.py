"""For WSGI servers: `gunicorn "api.wsgi:app()"`. Each server process calls app() for itself, after the fork."""

from __future__ import annotations

from flask import Flask

from api.app import create_app
from services import db
from services.settings import Settings


def app() -> Flask:
    """The app that the environment describes, its database migrated."""
    return create_app_from(Settings())


def create_app_from(settings: Settings) -> Flask:
    """Brings the database up to date and makes the app; raises SchemaMismatch for a database of a newer Loopline."""
    made = create_app(settings)
    db.migrate(made.extensions["loopline"].engine)
    return made
