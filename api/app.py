"""The application factory. Importing this module, or any other of the package, makes nothing."""

from __future__ import annotations

from api import bell as doorbell
from api import bodies, checkpoints, datasets, docs, errors, events, health, jobs, models, openapi, presets, workers
from api.service import Service
from services import db, storage
from services.queue import Doorbell
from services.settings import Settings

VERSION = "0.1.0"


def create_app(settings: Settings, *, bell: Doorbell | None = None) -> openapi.Api:
    """The HTTP service over the database, blobs and broker that `settings` name. Connects to none of them yet."""
    app = openapi.Api("loopline", version=VERSION)
    app.request_class = bodies.SpooledRequest
    app.config.update(MAX_CONTENT_LENGTH=settings.max_body_bytes, MAX_FORM_PARTS=20, TRAP_HTTP_EXCEPTIONS=False)
    app.extensions["loopline"] = Service(
        settings=settings,
        engine=db.engine(settings.database_url),
        storage=storage.of(settings),
        bell=bell or doorbell.CeleryDoorbell(settings.broker_url),
    )
    openapi.register(app)
    errors.register(app)
    for resource in (jobs, events, checkpoints, models, datasets, presets, workers, health):
        app.register_api(resource.api)
    app.register_blueprint(docs.pages)
    return app
