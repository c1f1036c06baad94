"""Markdown as HTML for pages. HTML within the Markdown is shown as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

Address = Callable[[str], str | None]
"""From what a document links to, to where a page finds it; None if it does not."""


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def html(text: str, link: Address, picture: Address) -> Markup:
    """The text as HTML without styles and scripts.

    Headings have the ids that GitHub gives them. A link or picture that leads nowhere becomes its text.
    """
    tokens = _parser().parse(text)
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _unique(anchor(_plain(tokens[index + 1])), seen))
        elif token.type in ("th_open", "td_open") and "style" in token.attrs:
            style = token.attrs.pop("style")  # the policy allows none
            if style == "text-align:right":
                token.attrSet("class", "number")
        elif token.children:
            token.children = _resolved(token.children, link, picture)
    made = _parser().renderer.render(tokens, _parser().options, {})
    made = made.replace("<table>", '<div class="wide" tabindex="0"><table>').replace("</table>", "</table></div>")
    return Markup(made.replace("<pre>", '<pre tabindex="0">'))  # noqa: S704  (HTML in the text was escaped)


def anchor(title: str) -> str:
    """The id of a heading, as GitHub writes it."""
    return re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")


def headings(text: str) -> list[tuple[int, str]]:
    """The level and title of each heading."""
    tokens = _parser().parse(text)
    return [
        (int(token.tag[1]), _plain(tokens[index + 1]))
        for index, token in enumerate(tokens)
        if token.type == "heading_open"
    ]


def sections(text: str) -> list[tuple[str, str]]:
    """The title of each heading, and the words up to the next one."""
    tokens, found = _parser().parse(text), [("", list[str]())]
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            found.append((_plain(tokens[index + 1]), []))
        elif token.type == "inline" and tokens[index - 1].type != "heading_open":
            found[-1][1].append(_plain(token))
        elif token.type in ("fence", "code_block"):
            found[-1][1].append(token.content)
    return [(title, " ".join(words)) for title, words in found if title or words]


def _plain(inline: Token) -> str:
    kinds = ("text", "code_inline", "image")
    shown = [child.content if child.type in kinds else " " for child in inline.children or () if _says(child)]
    return "".join(shown)


def _says(token: Token) -> bool:
    return token.type in ("text", "code_inline", "image", "softbreak", "hardbreak")


def _resolved(children: Sequence[Token], link: Address, picture: Address) -> list[Token]:
    found: list[Token] = []
    dead: list[bool] = []
    for token in children:
        if token.type == "link_open":
            address = link(str(token.attrs.get("href", "")))
            dead.append(address is None)
            if address is None:
                continue
            token.attrSet("href", address)
        elif token.type == "link_close" and dead.pop():
            continue
        elif token.type == "image":
            address = picture(str(token.attrs.get("src", "")))
            if address is None:
                found.append(Token("text", "", 0, content=token.content))
                continue
            token.attrSet("src", address)
        found.append(token)
    return found


def _unique(name: str, seen: dict[str, int]) -> str:
    count = seen.get(name, 0)
    seen[name] = count + 1
    return f"{name}-{count}" if count else name
