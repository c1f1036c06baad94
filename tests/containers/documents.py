"""The commands that the documents tell people to type, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = ("server", "operations", "hosts")


def blocks(page: str) -> dict[str, list[str]]:
    """The `sh` blocks of docs/PAGE.md, by the heading they stand under."""
    found: dict[str, list[str]] = {}
    heading = ""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for title, block in re.findall(r"^###? ([^\n]+)$|^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if title:
            heading = title
        else:
            found.setdefault(heading, []).append(block)
    return found
