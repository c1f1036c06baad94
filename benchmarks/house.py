"""`python -m benchmarks.house [REVISION]`: the shape of the code, and of another commit's beside it (`make house`).

It counts modules by folder, imports that run upward, circles of imports, functions of 60 lines or more, the longest
modules, and functions that hide a built-in. It reads the source alone and imports none of it. `tests/test_layers.py`
holds the order of `ROOMS` with the same code.
"""

from __future__ import annotations

import ast
import builtins
import io
import itertools
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("services", "worker", "api", "client/loopline", "local")

ROOMS = (
    "client/loopline/files",  # what people's files hold: for the client and for the service
    "client/loopline/preprocessing",  # what a model's input goes through: for the client and for the service
    "client/loopline/version.py",
    "client/loopline/prediction",  # answers of a trained model, without the service
    "services",  # the ground: errors, settings, database, metrics, words
    "services/training/measures.py",
    "services/training/card/names.py",
    "services/training/files/archive.py",
    "services/training/files/scan.py",
    "services/training/files/suspicion.py",
    "services/training/tasks",
    "services/training/files",
    "services/training/spec",
    "services/training/preprocessing",
    "services/training/engine",  # the recurrent layers in compiled code
    "services/training/parts.py",
    "services/training/model.py",
    "services/training/engine/losses.py",
    "services/training/engine/network.py",  # a whole update in compiled code
    "services/training",
    "services/training/gate",
    "services/training/export",
    "services/training/card",
    "services/training/run.py",
    "services/blobs",
    "services/access",
    "services/webhooks",
    "services/models",
    "services/prediction",
    "services/datasets",
    "services/jobs",
    "services/schedules",
    "services/searches",
    "services/upkeep",
    "worker/drain.py",
    "worker/process.py",
    "worker/gpu",
    "worker/attempt",
    "worker",
    "worker/scheduler",
    "api",
    "api/resources",
    "api/pages",
    "api/app.py",
    "api/wsgi.py",
    "api/server.py",
    "client/loopline",
    "client/loopline/view",
    "client/loopline/cli",
    "local",
)
"""Folders from the lowest to the highest: a module may import from its own folder and from those before it.

A module has a line of its own where the rest of its folder is built on it (`worker/process.py`), or where it puts
together what is above its folder (`api/app.py`). A `__main__` is above everything, and nothing imports it."""

LOOKING_UP = "services/training/tasks"
"""A task is one module: what it says about data, which the API needs without torch, and what it computes with torch. So
for typing and within functions it imports from folders above it. No other folder may."""

MOST_LINES = 60
"""A function is shorter than this."""
SHOWN = 10


@dataclass(frozen=True)
class Import:
    """One module's import of another one of ours."""

    importer: str
    imported: str
    line: int
    typing: bool
    """Whether it stands under `if TYPE_CHECKING:`, and so never runs."""
    deferred: bool
    """Whether it stands in a function, and so runs after all modules are there."""

    def __str__(self) -> str:
        return f"{self.imported}{' (typing)' if self.typing else ' (in a function)' if self.deferred else ''}"


@dataclass(frozen=True)
class Module:
    name: str
    path: str
    lines: int
    tree: ast.Module

    @cached_property
    def room(self) -> str:
        """Its folder, unless it has a line of its own in `ROOMS`, or starts a program."""
        path = Path(self.path)
        return self.path if self.path in ROOMS or path.name == "__main__.py" else path.parent.as_posix()

    @cached_property
    def statements(self) -> list[ast.AST]:
        return [*_statements(self.tree)]


@cache
def _module(name: str, path: str, text: str) -> Module:
    """Most modules of two commits are the same, and are parsed once."""
    return Module(name, path, text.count("\n"), ast.parse(text, path))


@dataclass(frozen=True)
class House:
    """All modules of one tree by name, and what they import of each other."""

    modules: Mapping[str, Module]
    imports: tuple[Import, ...]

    @classmethod
    def of(cls, sources: Iterable[tuple[str, str]]) -> House:
        """From the paths and texts of the files below `CODE`."""
        modules = {}
        for path, text in sources:
            name = path.removeprefix("client/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            modules[name] = _module(name, path, text)
        found = itertools.chain.from_iterable(_imports(module, modules) for module in modules.values())
        return cls(modules, tuple(sorted(set(found), key=lambda one: (one.importer, one.line, one.imported))))

    def upward(self) -> list[Import]:
        """The imports from a room that is above the importer's, those for typing too."""
        return [one for one in self.imports if self._rank(one.importer) < self._rank(one.imported)]

    def exceptions(self) -> list[Import]:
        """The imports that run upward and may, see LOOKING_UP."""
        upward = (one for one in self.upward() if one.typing or one.deferred)
        return [one for one in upward if self.modules[one.importer].room == LOOKING_UP]

    def without_exceptions(self) -> House:
        allowed = set(self.exceptions())
        return House(self.modules, tuple(one for one in self.imports if one not in allowed))

    def _rank(self, module: str) -> int:
        room = self.modules[module].room
        return ROOMS.index(room) if room in ROOMS else len(ROOMS) + room.endswith("/__main__.py")

    def circles(self, *, typing: bool, rooms: bool = False) -> list[list[str]]:
        """The modules, or rooms, that import each other, directly or through others. Imports within functions count."""
        graph: dict[str, set[str]] = defaultdict(set)
        for one in self.imports:
            ends = one.importer, one.imported
            importer, imported = (self.modules[name].room for name in ends) if rooms else ends
            if importer != imported and (typing or not one.typing):
                graph[importer].add(imported)
        return _circles(graph)

    @cached_property
    def functions(self) -> list[tuple[int, str]]:
        """Every function's lines (without its decorators) and name, the longest first."""
        found = [
            (node.end_lineno - node.lineno + 1, f"{module.path}:{node.lineno} {node.name}")
            for module in self.modules.values()
            for node in module.statements
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
        ]
        return sorted(found, key=lambda each: (-each[0], each[1]))

    def too_long(self) -> list[str]:
        return [f"{lines:4} {where}" for lines, where in self.functions if lines >= MOST_LINES]

    def longest_modules(self) -> list[str]:
        longest = sorted(self.modules.values(), key=lambda module: (-module.lines, module.path))
        return [f"{module.lines:4} {module.path}" for module in longest[:SHOWN]]

    def hiding(self) -> list[str]:
        """Functions, not methods, that are named like a built-in. `__dir__` and the like are Python's own hooks."""
        return [
            f"{module.path}:{node.lineno} {node.name}"
            for module in self.modules.values()
            for scope in module.statements
            if not isinstance(scope, ast.ClassDef)
            for node in ast.iter_child_nodes(scope)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if hasattr(builtins, node.name) and not node.name.startswith("__")
        ]


def _imports(module: Module, modules: Mapping[str, Module]) -> Iterator[Import]:
    for node, typing, deferred in _import_statements(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = node.module or ""
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names]
        for name in names:
            if name in modules and name != module.name:
                yield Import(module.name, name, node.lineno, typing, deferred)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The tree and the statements in it at any depth. No function stands in an expression, and most nodes do."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _statements(node)


def _import_statements(
    tree: ast.AST, typing: bool = False, deferred: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, typing, deferred
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _import_statements(node, True, deferred)
        elif not isinstance(node, ast.expr):
            within = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _import_statements(node, typing, within)


def _circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    reached = {start: _reached(graph, start) for start in graph}
    groups = {frozenset(b for b in found if a in reached.get(b, ())) for a, found in reached.items() if a in found}
    return sorted(sorted(group) for group in groups)


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        if (node := waiting.pop()) not in found:
            found.add(node)
            waiting += graph.get(node, ())
    return found


@cache
def here() -> House:
    """The tree as it lies on disk."""
    paths = itertools.chain.from_iterable(sorted((ROOT / folder).rglob("*.py")) for folder in CODE)
    return House.of((path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths)


def at(revision: str) -> House:
    """The tree of another commit, which is read from git and not checked out."""
    command = ["git", "archive", "--format=tar", revision, "--", *CODE]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        members = [member for member in files if member.isfile() and member.name.endswith(".py")]
        texts = [(member.name, content.read().decode()) for member in members if (content := files.extractfile(member))]
    return House.of(texts)


def _shown(house: House, imports: Iterable[Import]) -> list[str]:
    return [f"{house.modules[one.importer].path}:{one.line} {one}" for one in imports]


def _joined(circles: Iterable[list[str]]) -> list[str]:
    return [" ".join(one) for one in circles]


LISTS: dict[str, Callable[[House], list[str]]] = {
    "imports that run upward": lambda house: _shown(house, house.without_exceptions().upward()),
    "imports that may run upward": lambda house: _shown(house, house.exceptions()),
    "circles of modules at run time": lambda house: _joined(house.circles(typing=False)),
    "circles of modules with TYPE_CHECKING": lambda house: _joined(house.without_exceptions().circles(typing=True)),
    "circles of folders at run time": lambda house: _joined(
        house.without_exceptions().circles(typing=False, rooms=True)
    ),
    "circles of folders with TYPE_CHECKING": lambda house: _joined(
        house.without_exceptions().circles(typing=True, rooms=True)
    ),
    f"functions of {MOST_LINES} lines and more": House.too_long,
    "functions that hide a built-in": House.hiding,
}
"""What is counted and listed. All circles but the first kind are counted without the imports that LOOKING_UP allows."""


def folders(house: House) -> Counter[str]:
    return Counter(Path(module.path).parent.as_posix() for module in house.modules.values())


def report(houses: Mapping[str, House]) -> Iterator[str]:
    """The lines that are printed: each count for all trees in a row, then what was counted."""
    width = max(len(name) for name in LISTS)

    def row(name: str, values: Iterable[object]) -> str:
        return f"{name:{width}}" + "".join(f"{value!s:>12}" for value in values)

    yield row("", houses)
    counted = {name: folders(house) for name, house in houses.items()}
    for folder in sorted(set().union(*counted.values())):
        yield row(f"modules in {folder}", (counts[folder] or "-" for counts in counted.values()))
    yield row("modules", (len(house.modules) for house in houses.values()))
    yield row(
        "lines of the longest module", (max(m.lines for m in house.modules.values()) for house in houses.values())
    )
    yield row("lines of the longest function", (house.functions[0][0] for house in houses.values()))
    found = {title: {name: find(house) for name, house in houses.items()} for title, find in LISTS.items()}
    for title, lists in found.items():
        yield row(title, map(len, lists.values()))
    found["longest modules"] = {name: house.longest_modules() for name, house in houses.items()}
    found["longest functions"] = {
        name: [f"{lines:4} {where}" for lines, where in house.functions[:SHOWN]] for name, house in houses.items()
    }
    for title, lists in found.items():
        for name, lines in lists.items():
            if lines:
                yield from ("", f"{title}, {name}:", *(f"  {line}" for line in lines))


def main(arguments: list[str]) -> int:
    if len(arguments) > 1:
        print("Name at most one commit to compare with, for example: make house SINCE=HEAD~1", file=sys.stderr)
        return 2
    houses = {revision: at(revision) for revision in arguments} | {"here": here()}
    print("\n".join(report(houses)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
