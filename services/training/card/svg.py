"""The elements of an SVG picture: text, strokes and markers.

All text goes through an XML builder, so no name becomes markup. Equal input gives equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from services import text as words

INK, FAINT = "#222222", "#555555"
CHARACTER = 6.4
"""About the width of a character in pixels."""
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Style(NamedTuple):
    colour: str
    dash: str = ""
    marker: str = ""


def begun(title: str, width: float, height: float) -> Element:
    shown = _xml(title)
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": pixels(width),
            "height": pixels(height),
            "viewBox": f"0 0 {pixels(width)} {pixels(height)}",
            "role": "img",
            "font-family": "Helvetica, Arial, sans-serif",
            "font-size": "12",
        },
    )
    SubElement(root, "title").text = shown
    SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    write(root, 14, 22, shown, size=15, weight="bold")
    return root


def finished(root: Element) -> bytes:
    document: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def write(
    parent: Element,
    x: float,
    y: float,
    said: str,
    *,
    size: float = 12,
    anchor: str = "start",
    colour: str = INK,
    weight: str = "",
    turn: int = 0,
) -> None:
    if not said:
        return
    place = {"x": pixels(x), "y": pixels(y), "fill": colour}
    more = {
        **({"font-size": pixels(size)} if size != 12 else {}),
        **({"text-anchor": anchor} if anchor != "start" else {}),
        **({"font-weight": weight} if weight else {}),
        **({"transform": f"rotate({turn} {pixels(x)} {pixels(y)})"} if turn else {}),
    }
    SubElement(parent, "text", {**place, **more}).text = _xml(said)


def stroke(parent: Element, path: str, style: Style, width: float = 1.0) -> None:
    dash = {"stroke-dasharray": style.dash} if style.dash else {}
    shape = {"d": path, "fill": "none", "stroke": style.colour, "stroke-width": pixels(width)}
    SubElement(parent, "path", {**shape, **dash})


def markers(parent: Element, places: Sequence[tuple[float, float]], style: Style, *, hollow: bool = False) -> None:
    if not style.marker or not places:
        return
    shape = {
        "circle": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
        "square": "m-3-3h6v6h-6z",
        "triangle": "m0-4l4 7h-8z",
    }[style.marker]
    path = "".join(f"M{pixels(x)} {pixels(y)}{shape}" for x, y in places)
    fill = {"fill": "none", "stroke": style.colour, "stroke-opacity": "0.6"} if hollow else {"fill": style.colour}
    SubElement(parent, "path", {"d": path, **fill})


def pixels(value: float) -> str:
    """A number with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def shortened(said: str, most: int) -> str:
    said = words.visible(" ".join(said.split()))
    return said if len(said) <= most else f"{said[: most - 1]}…"


def _xml(said: str) -> str:
    """The text without characters that XML cannot hold; hidden ones as escapes."""
    return _NOT_XML.sub("�", words.visible(said))
