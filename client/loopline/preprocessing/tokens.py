"""Texts cut into characters or words.

Texts are normalised to Unicode's form NFC first, so the two ways to write an é are one. A word is letters, digits and
underscores in a row; any other character that is no white space is a word of its own: `don't.` is `don`, `'`, `t`, `.`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

By = Literal["characters", "words"]
LINE_BREAK = "\n"
WORD = re.compile(r"\w+|[^\w\s]")


def tokens(text: str, by: By, *, lowercase: bool) -> list[str]:
    """The characters, white space included, or the words."""
    text = unicodedata.normalize("NFC", text)
    if lowercase:
        text = unicodedata.normalize("NFC", text.lower())
    return list(text) if by == "characters" else WORD.findall(text)


def counts(text: str) -> tuple[int, int]:
    """How many characters and words a text has."""
    text = unicodedata.normalize("NFC", text)
    return len(text), len(WORD.findall(text))
