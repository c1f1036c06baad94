"""Tells texts from the names of files. Imports only the standard library."""

from __future__ import annotations

from pathlib import Path


def named_file(words: str) -> str | None:
    """If a text is the name of a file that exists, how to say whether the file or the text is meant."""
    try:
        if not Path(words).is_file():
            return None
    except (OSError, ValueError):  # no name of a file: too long, or with a NUL
        return None
    return f"{words} is a file: give pathlib.Path({words!r}) for the file, or [{words!r}] for the text"
