"""A cache of the keys that this process has verified, so that most requests need no query of the database."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from services import db
from services.access import keys, web_sessions
from services.access.keys import Identity
from services.errors import Unavailable

CACHE_SECONDS = 5.0
"""For so long a process takes a key for good that it found good: a revoked one may work so much longer."""
MOST_CACHED = 10_000

Verify = Callable[[Session, str], Identity]


class Keyring:
    """The keys that this process found good lately, so that a poll costs no look at the database. Holds no key, only
    hashes of them."""

    def __init__(
        self, engine: Engine, *, seconds: float = CACHE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._seconds, self._clock = engine, seconds, clock
        self._known: dict[tuple[Verify, bytes], tuple[float, Identity]] = {}
        """By what was verified, and how: a key is no cookie, and a cookie no key."""
        self._noted: dict[str, float] = {}

    def identity(self, text: str) -> Identity:
        """Whose key this is.

        Raises:
            Unauthorized: nobody's.
            Unavailable: the database cannot say.
        """
        return self._verified(text, keys.verify)

    def signed_in(self, cookie: str) -> Identity:
        """Whose web session this is.

        Raises:
            Unauthorized: nobody's.
            Unavailable: the database cannot say.
        """
        return self._verified(cookie, web_sessions.verify)

    def _verified(self, text: str, verify: Verify) -> Identity:
        place = verify, hashlib.sha256(text.encode()).digest()
        at, known = self._known.get(place, (0.0, None))
        if known is not None and self._clock() < at + self._seconds:
            return known
        self._known.pop(place, None)
        began = self._clock()
        with db.read_scope(self._engine) as session:
            found = verify(session, text)
        self._note_use(found.key_id or "")
        if len(self._known) >= MOST_CACHED:
            self._known.clear()
        self._known[place] = (began, found)
        return found

    def forget(self) -> None:
        """Look at the database again for every key and session: one was revoked here, or signed out."""
        self._known.clear()

    def _note_use(self, key_id: str) -> None:
        """At most once a minute, and only if that can be written at once: nobody's answer waits for it."""
        if self._clock() < self._noted.get(key_id, -keys.USED_SECONDS) + keys.USED_SECONDS:
            return
        with suppress(Unavailable), db.session_scope(self._engine, wait=False) as session:
            keys.note_use(session, key_id)
            self._noted[key_id] = self._clock()
