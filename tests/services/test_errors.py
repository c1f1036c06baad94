"""The tree of errors is drawn as it is."""

from __future__ import annotations

import re

from services import errors


def drawn() -> dict[str, str]:
    """By the name of each class in the drawing, the one that it hangs on."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r" {4}((?:│   |    |├── |└── )*)([A-Z]\w+)", line):
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            assert match[2] not in found, f"{match[2]} is drawn twice"
            found[match[2]] = above[depth - 1] if depth else "Exception"
    return found


def derived(error: type[Exception]) -> dict[str, str]:
    """By the name of each class below this one, what it is derived from."""
    found: dict[str, str] = {}
    for below in error.__subclasses__():
        if below.__module__ == errors.__name__:
            found |= {below.__name__: error.__name__, **derived(below)}
    return found


def test_every_error_is_drawn_where_it_hangs() -> None:
    assert drawn() == derived(Exception)
