"""What views need (engine, storage, settings, doorbell): made once by create_app, reached through current()."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

from flask import current_app
from sqlalchemy import Engine

from api.keyring import Keyring
from api.rates import Rates
from api.streams import Streams
from services.blobs.storage import Storage
from services.jobs.doorbell import Doorbell
from services.prediction.predictor import Predictor
from services.settings import Settings

MAX_WAITING, MAX_HEAVY, MAX_LOOKING = 40, 2, 2


@dataclass
class Service:
    settings: Settings
    engine: Engine
    storage: Storage
    bell: Doorbell
    keyring: Keyring
    rates: Rates
    predictor: Predictor
    streams: Streams
    closing: Callable[[], bool] = lambda: False
    """Whether this process was asked to stop: long polls and streams then end at once."""
    waiting: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MAX_WAITING))
    """A long poll holds one of the server's 64 threads: past this many, polls are answered at once."""
    heavy: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MAX_HEAVY))
    """Documents that take a while to read slow down all other threads of the process, so few are read at once."""
    looking: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MAX_LOOKING))
    """A look into a file that was sent holds a thread for up to 10 s while another process reads, so few are made at
    once; and they are counted apart, so that they keep no document waiting."""
    ready_checks: tuple[float, Mapping[str, str]] = (-math.inf, MappingProxyType({}))
    """The time of the last readiness check (monotonic clock, seconds) and its result."""
    trying: threading.Lock = field(default_factory=threading.Lock)
    wrote_at: float = field(default_factory=time.monotonic)
    """When the database last took a write of such a try."""
    blobs_check: tuple[float, str] = (-math.inf, "")
    """When the object store was asked last whether it is there, and what it said."""


def current() -> Service:
    """The service of the app that answers the present request."""
    return cast(Service, current_app.extensions["loopline"])
