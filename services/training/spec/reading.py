"""Turns the text of a spec, JSON or YAML, into a plain document, refusing what could surprise.

YAML is read by the rules of YAML 1.2's core schema where 1.1 trips people up: `1e-3` is a number and `no` is a word.
Aliases, tags, duplicate keys and deep nesting are refused, so that a small text is always a small document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import yaml

from services.errors import Problem, SpecInvalid

MAX_CHARACTERS = 1 << 18
MAX_DEPTH = 32
MAX_DIGITS = 40
MAX_YAML_NODES = 10_000
"""Of YAML, which takes a hundred times as long to read as JSON: this many take well under a second."""

CLOSED_BY = {"{": "}", "[": "]", '"': '"', "'": "'"}
KINDS = {"NoneType": "nothing", "list": "a list", "str": "a text", "int": "a number", "float": "a number"}


def loads(text: str | bytes, *, yaml: bool = True) -> dict[str, Any]:
    """Reads one document, which must be a mapping. JSON is tried first, as it is the faster and the stricter.

    Raises SpecInvalid with the line where reading stopped.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            _refuse(f"the text is not UTF-8: byte {error.start} cannot be read")
    if len(text) > MAX_CHARACTERS:
        _refuse(f"the text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are taken")
    if "\0" in text:
        _refuse("the text holds a NUL character")
    document = _from_yaml(text) if yaml and not text.lstrip().startswith("{") else _from_json(text, yaml)
    if not isinstance(document, dict):
        kind = KINDS.get(type(document).__name__, "true or false")
        _refuse(f"a spec is a mapping of names to values, such as `architecture: {{cell: gru}}`; this is {kind}")
    return document


def lines(text: str | bytes, pointers: Sequence[str]) -> Sequence[int | None]:
    """The line of a YAML text where the value at each JSON pointer stands, or the nearest thing around it; None if
    there is nothing around it. `loads` has read the text. JSON that is no YAML has no lines."""
    try:
        root = yaml.compose(text.decode("utf-8-sig") if isinstance(text, bytes) else text, Loader=_Loader)
    except (yaml.YAMLError, SpecInvalid):
        return [None] * len(pointers)
    return [_line_of(root, pointer) for pointer in pointers]


def _line_of(node: Any, pointer: str) -> int | None:
    found = None
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, yaml.MappingNode):
            inside = next(((key, value) for key, value in node.value if key.value == name), None)
        elif isinstance(node, yaml.SequenceNode) and name.isdecimal() and int(name) < len(node.value):
            inside = (node.value[int(name)],) * 2
        else:
            inside = None
        if inside is None:
            break
        found, node = inside[0].start_mark.line + 1, inside[1]
    return found


def _refuse(detail: str, pointer: str = "") -> NoReturn:
    raise SpecInvalid([Problem(pointer, detail)]) from None


def _from_json(text: str, or_yaml: bool) -> Any:
    _check_depth(text)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        if or_yaml:
            return _from_yaml(text)
        if error.pos >= len(whole := text.rstrip()):  # and not on the line after the last one
            error = json.JSONDecodeError(f"{error.msg}, and the text ends", whole, len(whole))
        return _refuse(f"line {error.lineno}, column {error.colno}: this is not JSON: {error.msg}")


def _check_depth(text: str) -> None:
    """Counts brackets, those inside strings too: a spec comes nowhere near the limit, and the parser never recurses."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        _refuse(f"nested {deepest} deep; at most {MAX_DEPTH} is allowed")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            _refuse(f"the key `{key[:80]}` stands twice in the same mapping; keep one")
        document[key] = value
    return document


def _no_constant(word: str) -> NoReturn:
    _refuse(f"{word} is not a number that a spec can hold; every number must be finite")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        _refuse(f"a whole number of {len(digits)} digits is out of range")
    return int(digits)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's plain scalars, without aliases, tags or duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own name and shape; filled below)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            _refuse(f"line {mark.line + 1}: YAML aliases (`*name`) are not allowed here")
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if event.tag not in (None, "!"):
            _refuse(f"line {event.start_mark.line + 1}: YAML tags (`{event.tag[:80]}`) are not allowed here")
        self.nodes = getattr(self, "nodes", 0) + 1
        if self.nodes > MAX_YAML_NODES:
            _refuse(f"more than {MAX_YAML_NODES:,} keys and values: a spec as long as that has to be JSON")
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > MAX_DEPTH:
            _refuse(f"nested deeper than {MAX_DEPTH}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        for key_node, _ in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                key = f"`{key_node.value[:80]}`" if isinstance(key_node.value, str) else "a mapping or a list"
                _refuse(f"line {key_node.start_mark.line + 1}: a key must be a word, not {key}")
        return _unique((key.value, self.construct_object(value, deep=True)) for key, value in node.value)


def _construct_integer(loader: _Loader, node: Any) -> int:
    return _integer(loader.construct_scalar(node))


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_mapping)


def _from_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader with less in it)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark and mark.index >= len(text.rstrip()) and (begin := _unclosed(text)) is not None:
            opened = text[begin.index]
            what = f"the text ends, and the {opened} of this place is not closed: add {CLOSED_BY[opened]}"
            return _refuse(f"line {begin.line + 1}, column {begin.column + 1}: {what}")
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return _refuse(f"{where}this is not YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError) as error:
        return _refuse(f"this is not YAML: {str(error).splitlines()[0]}")


def _unclosed(text: str) -> yaml.Mark | None:
    """Where the last bracket or quote begins that nothing closes."""
    opened: list[yaml.Mark] = []
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.FlowMappingStartToken | yaml.FlowSequenceStartToken):
                opened.append(token.start_mark)
            elif opened and isinstance(token, yaml.FlowMappingEndToken | yaml.FlowSequenceEndToken):
                opened.pop()
    except yaml.MarkedYAMLError as error:
        begin = error.context_mark
        return begin if begin and text[begin.index : begin.index + 1] in ('"', "'") else None
    return opened[-1] if opened else None
