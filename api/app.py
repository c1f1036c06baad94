"""The application factory. Importing this module, or any other of the package, makes nothing."""

from __future__ import annotations

from api import auth, bodies, errors, openapi, origins, rates
from api import bell as doorbell
from api.keyring import Keyring
from api.pages import cards, guide, site
from api.resources import (
    answers,
    audit,
    batches,
    checkpoints,
    curves,
    datasets,
    docs,
    events,
    health,
    inbox,
    jobs,
    keys,
    models,
    predictions,
    presets,
    results,
    schedules,
    searches,
    sessions,
    streams,
    uploads,
    webhooks,
    whoami,
    workers,
)
from api.service import Service
from api.streams import Streams
from services import db
from services.blobs import storage
from services.jobs.doorbell import Doorbell
from services.prediction.predictor import Predictor
from services.settings import Settings

VERSION = "0.1.0"


def create_app(settings: Settings, *, bell: Doorbell | None = None) -> openapi.Api:
    """The HTTP service over the database, blobs and broker that `settings` name. Connects to none of them yet."""
    app = openapi.Api("loopline", version=VERSION)
    app.request_class = bodies.SpooledRequest
    app.config.update(MAX_CONTENT_LENGTH=settings.max_body_bytes, MAX_FORM_PARTS=20, TRAP_HTTP_EXCEPTIONS=False)
    engine, blobs = db.engine(settings.database_url), storage.from_settings(settings)
    app.extensions["loopline"] = Service(
        settings=settings,
        engine=engine,
        storage=blobs,
        bell=bell or doorbell.CeleryDoorbell(settings.broker_url),
        keyring=Keyring(engine),
        rates=rates.Rates(settings.broker_url, rates.Rate.parse(settings.rate_limit)),
        predictor=Predictor(blobs, settings),
        streams=Streams(engine),
    )
    openapi.register(app)
    errors.register(app)
    for resource in (
        jobs,
        batches,
        searches,
        schedules,
        events,
        streams,
        checkpoints,
        curves,
        results,
        answers,
        datasets,
        uploads,
        inbox,
        models,
        predictions,
        presets,
        workers,
        keys,
        sessions,
        webhooks,
        audit,
        whoami,
        health,
    ):
        app.register_api(resource.api)
    app.register_blueprint(docs.pages)
    for pages in (site.site, cards.site, guide.site):
        app.register_blueprint(pages)
    origins.register(app)
    auth.register(app)
    openapi.expect_single_parameters(app)
    return app
