"""Cleans text from outside: makes it valid for a database, removes invisible characters, and quotes it for messages."""

from __future__ import annotations

import re

HIDDEN = r"\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
"""Characters that no name, tag or label may hold, as they stand in a regular expression between brackets. A terminal
obeys them, they turn the direction of writing, or they have no width. Not among them are the joiners U+200C and U+200D:
words and emoji need them."""
PLAIN = f"^[^{HIDDEN}]+$"
HIDDEN_IN_WORDS = "control characters, marks of direction or characters without width"

_HIDDEN = re.compile(f"[{HIDDEN}\\ud800-\\udfff]")


def is_plain(text: str) -> bool:
    """Whether there is nothing hidden in it."""
    return _HIDDEN.search(text) is None


def visible(text: str) -> str:
    """The text with what is hidden in it written as escapes. Lines stay lines."""
    return "\n".join(_HIDDEN.sub(lambda found: repr(found.group())[1:-1], line) for line in text.split("\n"))


def plain_lines(text: str) -> str:
    """The text without what is hidden in it. Lines stay lines."""
    return "\n".join(_HIDDEN.sub("", line) for line in text.replace("\t", " ").split("\n"))


def clean(text: str, most: int) -> str:
    """At most `most` characters of what every database takes: no NUL, no lone surrogates."""
    short = text if len(text) <= most else f"{text[:most]}…"
    return short.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
