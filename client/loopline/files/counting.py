"""Numbers of things in words. Imports only the standard library."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 epoch`, `2,000 epochs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
