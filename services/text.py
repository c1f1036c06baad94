"""Text from elsewhere, made fit for a database."""

from __future__ import annotations


def clean(text: str, most: int) -> str:
    """At most `most` characters of what every database takes: no NUL, no lone surrogates."""
    short = text if len(text) <= most else f"{text[:most]}…"
    return short.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
