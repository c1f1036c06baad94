"""Expands a batch's document into specs: those of its list, and every combination of values of each `matrix`.

Problems are reported where they lie in that document, whatever job they were found in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from services.errors import Problem, SpecInvalid
from services.text import HIDDEN_IN_WORDS, is_plain

MAX_JOBS = 1000
MAX_PROBLEMS = 100
MAX_NAME = 200
"""As a spec allows it."""
MAX_WORD = 40
"""Of a value within a name."""


@dataclass(frozen=True)
class Cell:
    """One combination: the spec without its matrix, and which value of each path it has."""

    spec: Mapping[str, Any]
    chosen: Mapping[str, int] = field(default_factory=dict)
    """By dotted path, the place of its value in the list."""
    label: str = ""
    """`lr=0.001, cell=gru`"""

    def locate(self, pointer: str) -> str:
        """Where a problem of this spec lies in the document that it came from."""
        for path, place in self.chosen.items():
            above = pointer_to(path.split("."))
            if pointer == above or pointer.startswith(f"{above}/"):
                return f"{pointer_to(['matrix', path])}/{place}{pointer.removeprefix(above)}"
        return pointer


@dataclass(frozen=True)
class Source:
    """A spec of the document, the JSON pointer to it, and the specs that it expands to."""

    prefix: str
    paths: Sequence[str]
    """The keys of its matrix."""
    cells: Sequence[Cell]


def read(document: Mapping[str, Any]) -> tuple[str | None, Sequence[Source]]:
    """The name of the batch, and its specs. A document without `jobs` is itself the one spec.

    Raises:
        SpecInvalid: with every problem of the list and of each matrix; what is wrong with the specs is not looked at.
    """
    entries = _entries(document) if "jobs" in document else {"": document}
    if (many := sum(_size(each) for each in entries.values())) > MAX_JOBS:
        where = "/jobs" if "jobs" in document else "/matrix"
        raise SpecInvalid([Problem(where, f"stands for {many:,} jobs; a batch has at most {MAX_JOBS:,}")])
    sources: list[Source] = []
    problems: list[Problem] = []
    for prefix, each in entries.items():
        try:
            sources.append(Source(prefix, _paths(each), expand(each)))
        except SpecInvalid as error:
            problems += [Problem(prefix + problem.pointer, problem.detail) for problem in error.problems]
    if problems:
        raise SpecInvalid(_shortened(problems))
    name = document.get("name")
    return (name if _is_name(name) else None), sources


def located(wrong: Sequence[tuple[Source, Cell, Sequence[Problem]]]) -> Sequence[Problem]:
    """Each problem once, where it lies in the document; with a combination that has it, where not all have it."""
    cells: dict[tuple[str, str, str], list[tuple[Source, Cell]]] = {}
    for source, cell, problems in wrong:
        for problem in problems:
            where = (source.prefix, cell.locate(problem.pointer), problem.detail)
            cells.setdefault(where, []).append((source, cell))
    found = []
    for (prefix, pointer, detail), having in cells.items():
        source, first = having[0]
        if len(having) < len(source.cells) and not pointer.startswith("/matrix/"):
            detail += f" (in {len(having)} of {len(source.cells)} combinations, such as {first.label})"
        found.append(Problem(prefix + pointer, detail))
    return _shortened(found)


def _entries(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The specs of a list, by where they are."""
    advice = "a batch has `name` and `jobs`, a list of specs; or it is one spec with a `matrix`"
    problems = [
        Problem(pointer_to([key]), f"is not known: {advice}") for key in document if key not in ("name", "jobs")
    ]
    if document.get("name") is not None and not _is_name(document["name"]):
        problems.append(Problem("/name", f"must be a text of 1 to {MAX_NAME} characters, without {HIDDEN_IN_WORDS}"))
    listed = document["jobs"] if isinstance(document["jobs"], list) else []
    if not listed:
        problems.append(Problem("/jobs", "must be a list of one spec or more"))
    for at, each in enumerate(listed):
        if not isinstance(each, Mapping):
            problems.append(Problem(f"/jobs/{at}", "must be a spec, which is a mapping of names to values"))
    if problems:
        raise SpecInvalid(_shortened(problems))
    return {f"/jobs/{at}": each for at, each in enumerate(listed)}


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= MAX_NAME and is_plain(name)


def _shortened(problems: Sequence[Problem]) -> Sequence[Problem]:
    more = len(problems) - MAX_PROBLEMS
    return problems if more <= 0 else [*problems[:MAX_PROBLEMS], Problem("", f"and {more:,} more problems")]


def _paths(document: Mapping[str, Any]) -> Sequence[str]:
    """The keys of its matrix; none where there is none, or none that could be read."""
    matrix = document.get("matrix")
    return [*matrix] if isinstance(matrix, Mapping) else []


def _size(document: Mapping[str, Any]) -> int:
    """How many specs the document expands to, if its matrix is valid; 1 without a matrix."""
    matrix = document.get("matrix")
    lists = matrix.values() if isinstance(matrix, Mapping) else ()
    return math.prod(len(values) for values in lists if isinstance(values, list))


def expand(document: Mapping[str, Any]) -> Sequence[Cell]:
    """Every combination, the last path's values changing fastest; the document itself where it has no matrix.

    Raises:
        SpecInvalid: with every problem of the matrix.
    """
    if "matrix" not in document:
        return [Cell(document)]
    matrix = document["matrix"]
    problems = [*_problems(matrix)]
    base = {key: value for key, value in document.items() if key != "matrix"}
    if not problems:
        problems = [problem for path in matrix if (problem := _unreachable(base, path))]
    if problems:
        raise SpecInvalid(problems)
    places = product(*(range(len(values)) for values in matrix.values()))
    cells = [_cell(base, matrix, dict(zip(matrix, chosen, strict=True))) for chosen in places]
    return [_named(cell, number) for number, cell in enumerate(cells, 1)]


def value(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or None."""
    found: Any = document
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _problems(matrix: object) -> Iterator[Problem]:
    if not isinstance(matrix, Mapping) or not matrix:
        example = "`matrix: {training.optimizer.lr: [1e-3, 1e-4]}`"
        yield Problem("/matrix", f"must name one path into the spec or more, each with a list of values: {example}")
        return
    for path, values in matrix.items():
        where = pointer_to(["matrix", path])
        if not all(path.split(".")) or path.split(".")[0] == "matrix":
            yield Problem(where, "is no path into a spec, such as `training.optimizer.lr` or `data.dataset`")
        elif not isinstance(values, list) or not values:
            yield Problem(where, "must be a list of one value or more, such as `[1e-3, 1e-4]`")
        elif len({json.dumps(each, sort_keys=True) for each in values}) < len(values):
            yield Problem(where, "has a value twice; every job must differ from every other one")
        elif above := next((other for other in matrix if path.startswith(f"{other}.")), None):
            yield Problem(where, f"lies within `{above}`, which the matrix has as well; keep one of them")


def _unreachable(base: Mapping[str, Any], path: str) -> Problem | None:
    found: Any = base
    *above, _ = path.split(".")
    for depth, key in enumerate(above, 1):
        found = found.get(key) if isinstance(found, Mapping) else None
        if found is not None and not isinstance(found, Mapping):
            through = ".".join(above[:depth])
            return Problem(pointer_to(["matrix", path]), f"leads through {through}, which is no mapping in this spec")
    return None


def _cell(base: Mapping[str, Any], matrix: Mapping[str, Sequence[Any]], chosen: Mapping[str, int]) -> Cell:
    spec, words = base, []
    for path, place in chosen.items():
        spec = with_value(spec, path.split("."), matrix[path][place])
        words.append(f"{_short(path, matrix)}={_word(matrix[path][place], place)}")
    return Cell(spec, chosen, ", ".join(words))


def with_value(document: Mapping[str, Any] | None, path: Sequence[str], value: Any) -> dict[str, Any]:
    """The document with another value at the path. What lies elsewhere is shared with the old one."""
    key, *below = path
    changed = dict(document or {})
    changed[key] = with_value(changed.get(key), below, value) if below else value
    return changed


def _named(cell: Cell, number: int) -> Cell:
    """The cell with a name of its own: `vowels[lr=0.001]`, or `vowels[17]` where that would be too long."""
    name = cell.spec.get("name")
    if (name is not None and not isinstance(name, str)) or "name" in cell.chosen:
        return cell  # wrong, which the spec's own check will say; or told apart already
    full = f"{name or ''}[{cell.label}]"
    fits = full if len(full) <= MAX_NAME else f"{name or ''}[{number}]"
    return Cell({**cell.spec, "name": fits}, cell.chosen, cell.label)


def _short(path: str, matrix: Mapping[str, Any]) -> str:
    """The end of a path that no other one has: `lr` of `training.optimizer.lr`."""
    parts = path.split(".")
    for count in range(1, len(parts)):
        end = parts[-count:]
        if not any(other != path and other.split(".")[-count:] == end for other in matrix):
            return ".".join(end)
    return path


def _word(value: Any, place: int) -> str:
    if isinstance(value, str):
        word = value
    elif isinstance(value, dict | list):
        word = json.dumps(value, ensure_ascii=False)
        word = word if len(word) <= MAX_WORD else f"#{place + 1}"
    else:
        word = json.dumps(value)
    printable = "".join(letter for letter in word if letter.isprintable())
    return printable if len(printable) <= MAX_WORD else f"{printable[: MAX_WORD - 1]}…"


def pointer_to(keys: Sequence[str]) -> str:
    """The JSON pointer (RFC 6901) to what lies below these keys."""
    return "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in keys)
