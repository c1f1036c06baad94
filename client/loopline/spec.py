"""The spec that is sent: a mapping, or the text of a YAML or JSON file.

Only the service interprets a spec, so a file is sent unchanged if possible. If something must change (`--set`, or a
data set that had to be uploaded first), the client edits the YAML tree and not parsed values. So everything else
arrives as it was written.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loopline.errors import BadRequest, Problem
from loopline.files import SUFFIXES, ending_of

TEXT = "tag:yaml.org,2002:str"
NULL = "tag:yaml.org,2002:null"
MAPPING = "tag:yaml.org,2002:map"
SEQUENCE = "tag:yaml.org,2002:seq"
DATASET = ("data", "dataset")
SCHEMA = ("data", "schema")
DATASETS = ("matrix", "data.dataset")
LISTED = "/matrix/data.dataset"


@dataclass
class SpecFile:
    """The text of a spec, its media type, the folder for its relative paths, and the file it was read from."""

    text: str
    media_type: str
    folder: Path
    source: str = field(default="A spec", compare=False)

    def value(self, path: tuple[str, ...]) -> str | None:
        """The text at a path of keys; None if there is none, or another type."""
        node: yaml.Node | None = self._tree()
        for key in path:
            node = _child(node, key)
        return node.value if isinstance(node, yaml.ScalarNode) else None

    def words(self, path: tuple[str, ...]) -> list[str] | None:
        """The texts of a list at a path of keys; None if there is no list, or it contains another type."""
        node: yaml.Node | None = self._tree()
        for key in path:
            node = _child(node, key)
        items = node.value if isinstance(node, yaml.SequenceNode) else None
        words = [item.value for item in items or () if isinstance(item, yaml.ScalarNode)]
        return words if items is not None and len(words) == len(items) else None

    def document(self, path: tuple[str, ...]) -> dict[str, Any]:
        """The mapping at a path of keys; empty where there is none. Raises BadRequest where it cannot be read."""
        node: yaml.Node | None = self._tree()
        for key in path:
            node = _child(node, key)
        if not isinstance(node, yaml.MappingNode):
            return {}
        try:
            found: dict[str, Any] = yaml.SafeLoader("").construct_document(node)
        except yaml.YAMLError as error:
            raise BadRequest(f"{'.'.join(path)} cannot be read: {error}.") from None
        return found

    def leaves_network_open(self) -> bool:
        """Whether it names neither a preset nor a cell, so that the service chooses what it does not state."""
        return self.value(("preset",)) in (None, "null") and self.value(("architecture", "cell")) in (None, "null")

    def has_matrix(self) -> bool:
        """Whether the spec has a `matrix`; false if the text cannot be parsed."""
        return self._has("matrix")

    def has_search(self) -> bool:
        """Whether the spec has a `search`; false if the text cannot be parsed."""
        return self._has("search")

    def _has(self, key: str) -> bool:
        try:
            return _child(self._tree(), key) is not None
        except BadRequest:
            return False

    def set(self, path: tuple[str, ...], value: str, *, verbatim: bool = False) -> None:
        """Sets the value at a path of keys. The value is parsed as YAML, or taken as text with `verbatim`.

        Raises BadRequest if the value is not YAML, or a part of the path is not a mapping.
        """
        tree = self._tree()
        if _is_null(tree):
            tree = yaml.MappingNode(MAPPING, [])
        node = tree
        for depth, key in enumerate(path[:-1]):
            below = _child(node, key)
            if below is None or _is_null(below):
                below = yaml.MappingNode(MAPPING, [])
                _put(node, key, below, path[:depth])
            node = below
        _put(node, path[-1], _text(value) if verbatim else _composed(value), path[:-1])
        self.text = yaml.serialize(tree, allow_unicode=True, Dumper=yaml.SafeDumper)
        self.media_type = "application/yaml"

    def _tree(self) -> yaml.Node:
        # YAML refuses the tabs that JSON allows between its words.
        text = _without_tabs(self.text) if self.media_type == "application/json" else self.text
        return _composed(text)


def read(source: str | Path | Mapping[str, Any]) -> SpecFile:
    """Reads a spec from a file or a mapping. Raises BadRequest if the file does not exist or cannot be sent."""
    if isinstance(source, Mapping):
        return SpecFile(_dumped(source), "application/json", Path())
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest(f"{path} is not a text file in UTF-8, so it cannot be a spec.") from None
    except OSError as error:
        raise BadRequest(f"Cannot read {path}: {error.strerror}.") from None
    media_type = "application/json" if path.suffix.lower() == ".json" else "application/yaml"
    return SpecFile(text, media_type, path.parent, str(path))


def together(specs: Sequence[SpecFile], name: str | None) -> SpecFile:
    """Combines the specs into one batch. Raises BadRequest if one of them cannot be read."""
    trees = []
    for spec in specs:
        try:
            trees.append(spec._tree())
        except BadRequest as error:
            raise BadRequest(f"{spec.source}: {error.message}") from None
    listed = yaml.SequenceNode(SEQUENCE, trees, flow_style=False)
    named = [] if name is None else [(yaml.ScalarNode(TEXT, "name"), _text(name))]
    tree = yaml.MappingNode(MAPPING, [*named, (yaml.ScalarNode(TEXT, "jobs"), listed)], flow_style=False)
    text = yaml.serialize(tree, allow_unicode=True, Dumper=yaml.SafeDumper)
    return SpecFile(text, "application/yaml", Path())


def again(
    spec: Mapping[str, Any],
    dataset_id: str | None,
    changes: Mapping[str, str],
    tags: Mapping[str, str],
    *,
    is_trial: bool = False,
) -> SpecFile:
    """The spec of a job, to submit it once more: with the version of the data set that it had, and these changes.

    A search sets the test part of its trials aside. Once more, such a job is tested.
    Raises BadRequest if a value is not YAML.
    """
    document = {**spec, "tags": dict(tags)}
    task = spec.get("task")
    if isinstance(task, Mapping) and task.get("name") == "forecast":
        document["task"] = {"calendar": "none", **task}  # an older service did not know it
    if dataset_id is not None:
        document["data"] = {**document.get("data", {}), "dataset": dataset_id}
    data = document.get("data")
    if is_trial and isinstance(data, Mapping) and isinstance(data.get("split"), Mapping):
        split = {key: value for key, value in data["split"].items() if key != "evaluate_test"}
        document["data"] = {**data, "split": split}
    found = SpecFile(json.dumps(document), "application/json", Path(), "The spec of the job")
    for key, value in changes.items():
        found.set(tuple(key.split(".")), value)
    return found


def local_files(spec: SpecFile) -> dict[str, Path]:
    """The data sets that `data.dataset` or the matrix gives as paths, by their JSON pointers. Whether they exist is not
    looked at. Empty if the text of the spec cannot be read: the service says better what is wrong with it."""
    try:
        named, listed = spec.value(DATASET), spec.words(DATASETS)
    except BadRequest:
        return {}
    words = {f"{LISTED}/{place}": word for place, word in enumerate(listed or [])}
    if named is not None:
        words["/data/dataset"] = named
    return {pointer: spec.folder / Path(word).expanduser() for pointer, word in words.items() if is_path(word)}


def missing(pointer: str, path: Path) -> Problem | None:
    """What is wrong with the path of a file that does not exist."""
    if path.exists():
        return None
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return Problem(pointer, f"there is no file {path.absolute()}{meant}")


def with_local_dataset(spec: SpecFile, upload: Callable[[Path, Mapping[str, Any]], str]) -> SpecFile:
    """Uploads each data set that the spec gives as a path, and replaces the path by its name. `upload` is called with
    the path and the spec's `data.schema`.

    Raises BadRequest if a file does not exist.
    """
    files = local_files(spec)
    if not files:
        return spec
    if lost := [problem for pointer, path in files.items() if (problem := missing(pointer, path))]:
        raise refused(lost)
    changed, schema = copy.copy(spec), spec.document(SCHEMA)

    def uploaded(pointer: str) -> str:
        try:
            return upload(files[pointer], schema)
        except BadRequest as error:
            raise _of_spec(error, pointer) from error

    if "/data/dataset" in files:
        changed.set(DATASET, uploaded("/data/dataset"), verbatim=True)
    if listed := spec.words(DATASETS):
        places = {f"{LISTED}/{place}": word for place, word in enumerate(listed)}
        words = [uploaded(pointer) if pointer in files else word for pointer, word in places.items()]
        changed.set(DATASETS, json.dumps(words))
    return changed


def refused(problems: Sequence[Problem]) -> BadRequest:
    """The error for a spec with these problems, in the service's words."""
    many = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return BadRequest(f"The spec has {many}.", problems=problems)


def _of_spec(error: BadRequest, pointer: str) -> BadRequest:
    """The error of an upload with the places in the spec that its problems are about."""
    problems = []
    for one in error.problems:
        place = pointer if one.pointer == "/file" else one.pointer.replace("/query/", "/data/schema/", 1)
        problems.append(Problem(place, one.detail))
    return BadRequest(error.message, status=error.status, code=error.code, problems=problems)


def is_path(dataset: str) -> bool:
    """Whether a data set is given as a path. Names contain no slash and do not end like a file."""
    return dataset.startswith((".", "~")) or "/" in dataset or "\\" in dataset or dataset.lower().endswith(SUFFIXES)


def dataset_name(path: Path) -> str:
    """The name of a data set for the name of a file or folder: `My Vowels (2).npz` becomes `my-vowels-2`."""
    stem = path.name.lower()
    ending = ending_of(stem) or path.suffix.lower()
    letters = stem.removesuffix(ending).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9._-]+", "-", letters).strip("._-")[:100] or "data"


def _dumped(document: Mapping[str, Any]) -> str:
    try:
        return json.dumps(document, allow_nan=False, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"The spec cannot be sent as JSON: {error}.") from None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no place in JSON")


def _without_tabs(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return text


def _composed(text: str) -> yaml.Node:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise BadRequest("This is nested too deeply to be a spec.") from None
    except yaml.YAMLError as error:
        mark, begin = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
        if mark and begin and mark.index >= len(text.rstrip()):  # what begins there is not closed
            mark = begin
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise BadRequest(f"This is not YAML{where}: {getattr(error, 'problem', None) or error}.") from None
    return node if node is not None else yaml.ScalarNode(NULL, "null")


def _text(value: str) -> yaml.ScalarNode:
    return yaml.ScalarNode(TEXT, value, style='"')


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == NULL)


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _put(node: yaml.Node, key: str, value: yaml.Node, path: tuple[str, ...]) -> None:
    if not isinstance(node, yaml.MappingNode):
        raise BadRequest(f"Cannot set {'.'.join((*path, key))}: {'.'.join(path) or 'the spec'} is not a mapping.")
    for at, (name, _) in enumerate(node.value):
        if name.value == key:
            node.value[at] = (name, value)
            return
    node.value.append((yaml.ScalarNode(TEXT, key), value))
