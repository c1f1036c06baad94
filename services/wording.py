"""Turns the errors that pydantic finds in a body, a parameter or a setting into sentences for people.

A problem of a request says where (a JSON pointer) and what is allowed there. A sentence about a setting names its
variable.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from services.errors import Problem
from services.text import HIDDEN_IN_WORDS, visible

MAX_PROBLEMS = 100
"""The most problems that are listed one by one: nobody reads more, and wording each takes time."""

WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "text without lone surrogates",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "int_parsing_size": "a whole number in range",
}
COMPLETE = {"unknown_event", "dataset_name", "no_task"}
"""Errors of our own validators, whose messages are whole sentences."""
BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


FRACTION = "must be `given` or a fraction of at least 0 and less than 1"
UNIONS = {  # fields that take one of several kinds: pydantic complains once a kind, a person wants one sentence
    ("split", "validation"): FRACTION,
    ("split", "test"): FRACTION,
    ("loss", "class_weights"): "must be `balanced`, a list of one weight greater than 0 for each class, or null",
    ("version",): "must be the number of a version, another alias, or `latest`",
}
PATTERNS = {  # what a text has to look like, by what it is called; elsewhere it must be free of control characters
    ("queue",): "must be 1 to 63 small letters, digits, `-` or `_`, beginning with a letter or digit",
    ("url",): "must begin with https:// or http://",
    ("tag",): "must look like KEY:VALUE",
    ("queues",): "must be names of 1 to 63 small letters, digits, hyphens and underscores, as a spec's `queue`, with "
    "commas between",
    ("rate_limit",): "must be such as `200 per 10 seconds` or `1000 per minute`, or `none`",
    ("gpus",): "must be `all`, or numbers or ids as `nvidia-smi -L` lists them, with commas between",
    ("Idempotency-Key",): "must be printable ASCII without spaces",
    ("model",): "must be a version (`vowels@3`), an alias (`vowels@production`), `vowels@latest` or the id of a job",
    ("retrain", "model"): "must be 1 to 100 small letters, digits, `.`, `-` or `_`, beginning with a letter or digit",
}


PLACES = {  # fields that people look for in the wrong place
    "lr": "training.optimizer.lr",
    "dropout": "architecture.dropout",
    "num_layers": "architecture.num_layers",
    "hidden_size": "architecture.hidden_size",
    "max_grad_norm": "training.max_grad_norm",
}
ALIASES = {  # other libraries' words for them
    "learning_rate": "lr",
    "dropout_rate": "dropout",
    "layers": "num_layers",
    "units": "hidden_size",
    "clip": "max_grad_norm",
}


def problems_of(error: ValidationError, model: type[BaseModel], document: Any) -> list[Problem]:
    """What is wrong with single fields; a field of several kinds is complained about once, at the innermost place."""
    entries = error.errors(include_url=False)
    found = dict.fromkeys(Problem(*_pointer_and_sentence(entry, model, document)) for entry in entries[:MAX_PROBLEMS])
    inner = {p.pointer.rpartition("/")[0] for p in found if p.pointer.rpartition("/")[2].isdigit()}
    problems = [p for p in found if p.pointer not in inner]
    if len(entries) > MAX_PROBLEMS:
        problems.append(Problem("", f"and {len(entries) - MAX_PROBLEMS:,} more problems"))
    return problems


def parameter_problems(error: ValidationError, allowed: Sequence[str]) -> list[Problem]:
    """What is wrong with a query, path or header; the model's title says which of the three it is. `allowed` are the
    query parameters of the route."""
    return [
        Problem("/".join(["", error.title, *map(str, entry["loc"])]), _of_parameter(entry, allowed))
        for entry in error.errors(include_url=False)
    ]


def setting_sentences(error: ValidationError) -> Iterator[str]:
    """A sentence for each setting that cannot be used, which names its variable."""
    for entry in error.errors(include_url=False):
        if entry["type"] == "default_factory_not_called":  # another setting is wrong, and has a sentence of its own
            continue
        message = entry["msg"].removeprefix("Value error, ").removesuffix(".")
        if not entry["loc"]:  # it is about several settings, and names them itself
            yield f"{message}."
            continue
        setting = str(entry["loc"][0])
        about = f": {message}" if entry["type"] == "value_error" else f" {_of_value(entry, (setting,))}"
        yield f"LOOPLINE_{setting.upper()}{about}."


def _pointer_and_sentence(error: Mapping[str, Any], model: type[BaseModel], document: Any) -> tuple[str, str]:
    """One of ValidationError.errors() as (JSON pointer, sentence)."""
    path = _path(error["loc"], document)
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1")[:100] for part in path)
    return pointer, _sentence(error, path, model, document)


def without(document: Any, errors: Sequence[Mapping[str, Any]]) -> Any:
    """A copy of the document with the places of these errors left out."""
    result = _copy(document)
    for error in errors:
        *parents, last = _path(error["loc"], document) or ("",)
        place = result
        for part in parents:
            place = _step(place, part)
        if isinstance(place, dict):
            place.pop(last, None)
        elif parents and isinstance(place, list):  # a wrong element takes its list along
            *above, name = parents
            place = result
            for part in above:
                place = _step(place, part)
            if isinstance(place, dict):
                place.pop(name, None)
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _step(place: Any, part: Any) -> Any:
    if isinstance(place, Mapping):
        return place.get(part)
    if isinstance(place, list) and isinstance(part, int) and part < len(place):
        return place[part]
    return None


def _path(loc: Sequence[Any], document: Any) -> tuple[Any, ...]:
    """The path in the document: pydantic's own, less the union members that it names on its way."""
    path: list[Any] = []
    place = document
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        known = (isinstance(place, Mapping) and part in place) or (isinstance(place, list) and isinstance(part, int))
        if known or (last and isinstance(place, Mapping)):
            path.append(part)
            place = _step(place, part)
        elif place is None and not path:
            path.append(part)
    return tuple(path)


def _sentence(error: Mapping[str, Any], path: tuple[Any, ...], model: type[BaseModel], document: Any) -> str:
    kind = error["type"]
    if kind == "missing":
        return "this is required" + _hint(path)
    if kind == "extra_forbidden":
        return _unknown_key(path, model, document)
    if kind in COMPLETE:
        return str(error["msg"])
    union = next((message for place, message in UNIONS.items() if path[-len(place) :] == place), None)
    return f"{union}; got {_shown(error.get('input'))}" if union else _of_value(error, path)


def _of_value(error: Mapping[str, Any], path: tuple[Any, ...]) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error.get("input")
    got = f"; got {_shown(given)}"
    if kind in ("literal_error", "enum"):
        return f"must be one of {_choices(context['expected'])}{got}"
    if kind == "union_tag_invalid":
        name = given.get("name") if isinstance(given, Mapping) else given
        return f"name must be one of {_choices(context['expected_tags'])}; got {_shown(name)}"
    if kind == "union_tag_not_found":
        return "needs a `name`"
    if kind in BOUNDS:
        key, words = BOUNDS[kind]
        return f"must be {words} {_number(context[key])}{got}" + _off_hint(path, given)
    if kind in WORDS:
        return f"must be {WORDS[kind]}{got}"
    if kind == "string_pattern_mismatch":
        return _pattern_sentence(path) + got
    if kind in ("string_too_long", "too_long"):
        return f"is too long: at most {context['max_length']} {'characters' if kind.startswith('s') else 'entries'}"
    if kind in ("string_too_short", "too_short"):
        return f"is too short: at least {context['min_length']}"
    return str(error["msg"]).replace("Input should be", "must be", 1) + got


def _hint(path: tuple[Any, ...]) -> str:
    return {
        ("data",): ": say `data: {dataset: NAME}` or `data: {synthetic: {}}`",
    }.get(path, "")


def _off_hint(path: tuple[Any, ...], given: Any) -> str:
    if path[-1:] and path[-1] in ("max_grad_norm", "max_grad_value") and given == 0:
        return " (null turns clipping off)"
    return ""


def _pattern_sentence(path: tuple[Any, ...]) -> str:
    if path in PATTERNS:
        return PATTERNS[path]
    if path[:1] == ("retrain",):
        of_alias = "1 to 63 small letters, digits, `.`, `-` or `_`, beginning with a letter"
        return f"must be an alias ({of_alias})" + ("" if path[-1] == "promote" else " or the number of a version")
    return f"must hold no {HIDDEN_IN_WORDS}"


def _choices(listed: str) -> str:
    return listed.replace("'", "").replace(" or ", ", ")


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = {None: "null", True: "true", False: "false"}.get(value) if value is None or isinstance(value, bool) else None
    if isinstance(value, int) and value.bit_length() > 4096:  # Python refuses to write out the longest ones
        text = f"a whole number of about {value.bit_length() * 3 // 10:,} digits"
    text = text or (f'"{value}"' if isinstance(value, str) else f"{value}")
    text = visible(text).replace("\n", "\\n")
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown_key(path: tuple[Any, ...], model: type[BaseModel], document: Any) -> str:
    key = str(path[-1])
    members = _members_at(path[:-1], model, document)
    fields = sorted({name for member in members[:1] for name in _fields(member)})
    meant = ALIASES.get(key, key)
    near = [meant] if meant in fields else difflib.get_close_matches(key, fields, n=1, cutoff=0.7)
    if "architecture" in model.model_fields:  # a spec
        near = near or [PLACES[name] for name in [meant] if name in PLACES]
    guess = f"did you mean `{near[0]}`? " if near else ""
    others = [_tag(member) for member in members[1:] if key in _fields(member)]
    if others:
        guess = f"it belongs to {' and '.join(others)}; "
    return f"there is no such field; {guess}allowed here: {', '.join(fields)}"


def _of_parameter(error: Mapping[str, Any], allowed: Sequence[str]) -> str:
    if error["type"] != "extra_forbidden":
        return _sentence(error, _path(error["loc"], {}), BaseModel, {})
    name = str(error["loc"][-1])
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.7)
    guess = f"did you mean `{near[0]}`? " if near else ""
    return f"there is no such parameter here; {guess}allowed here: {', '.join(allowed)}"


def _members_at(path: Sequence[Any], model: type[BaseModel], document: Any) -> list[type[BaseModel]]:
    """The models that could stand at this path, the one chosen by `name` first."""
    members, place = [model], document
    for part in path:
        field = _fields(members[0]).get(str(part)) if members else None
        members = list(_models_in(field.annotation)) if field else []
        place = _step(place, part)
        name = place.get("name") if isinstance(place, Mapping) else None
        members.sort(key=lambda member: _tag(member) != name)  # stable: without a name, the default comes first
    return members


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for argument in typing.get_args(annotation):
            yield from _models_in(argument)


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by the names that a client gives them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _tag(member: type[BaseModel]) -> str:
    field = member.model_fields.get("name")
    if field is not None and typing.get_origin(field.annotation) is Literal:
        return str(typing.get_args(field.annotation)[0])
    return ""
